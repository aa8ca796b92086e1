//! What is wrong with a set of settings, all at once.

/// One wrong setting: what it is called where it was given, and what is wrong, with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ConfigError {
    pub name: String,
    pub problem: String,
}

impl ConfigError {
    pub fn new(name: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError { name: name.into(), problem: problem.into() }
    }
}

/// Every error of one set of settings; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// A set with one error.
    pub fn one(name: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigErrors(vec![ConfigError::new(name, problem)])
    }

    pub(super) fn push(&mut self, name: impl Into<String>, problem: impl Into<String>) {
        self.0.push(ConfigError::new(name, problem));
    }

    /// `value` when nothing was wrong.
    pub(super) fn or<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
