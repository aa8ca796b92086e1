//! Lists of hashes, as `sha256sum` writes them.

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// SHA-256, in lower-case hexadecimal.
    pub hash: String,
    /// As it was written, any bytes.
    pub path: Vec<u8>,
}

/// A line that says neither a hash nor a path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "is not what sha256sum writes (64 hexadecimal digits, two spaces, a path); make the list with `find . -type f -exec sha256sum {{}} +`"
)]
pub struct ListError;

/// Reads one line, without its end; `None` for an empty one.
///
/// # Errors
/// When it is something else.
pub fn expected(line: &[u8]) -> Result<Option<Expected>, ListError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Ok(None);
    }
    // A backslash in front says that the path is written with escapes.
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (hash, rest) = line.split_at_checked(64).ok_or(ListError)?;
    let (separator, path) = rest.split_at_checked(2).ok_or(ListError)?;
    if !matches!(separator, b"  " | b" *") || path.is_empty() {
        return Err(ListError);
    }
    let hash = std::str::from_utf8(hash).map_err(|_| ListError)?.to_ascii_lowercase();
    if !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(ListError);
    }
    let path = if escaped { unescaped(path)? } else { path.to_vec() };
    Ok(Some(Expected { hash, path }))
}

fn unescaped(path: &[u8]) -> Result<Vec<u8>, ListError> {
    let mut bytes = path.iter();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'\\') => b'\\',
                _ => return Err(ListError),
            },
            byte => byte,
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn lines_are_read_as_sha256sum_writes_them() {
        let path = |line: &str| expected(line.as_bytes()).map(|found| found.map(|e| e.path));
        assert_eq!(path(&format!("{HASH}  ./a b")), Ok(Some(b"./a b".to_vec())));
        assert_eq!(path(&format!("{} *a", HASH.to_uppercase())), Ok(Some(b"a".to_vec())));
        assert_eq!(path(&format!("\\{HASH}  a\\nb\\\\c")), Ok(Some(b"a\nb\\c".to_vec())));
        assert_eq!(path(&format!("{HASH}  a\\nb")), Ok(Some(b"a\\nb".to_vec())));
        assert_eq!(path(""), Ok(None));
        for wrong in
            ["x", HASH, &format!("{HASH} a"), &format!("{HASH}  "), &format!("\\{HASH}  \\x")]
        {
            assert_eq!(path(wrong), Err(ListError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = expected(&line);
        }
    }
}
