//! The values that settings take, from their text. Each error says what would be right.

use std::time::Duration;

use super::volume::ContentType;
use crate::types::CredentialsName;

/// `true`, `1`, `yes`, `on` and the empty text (a flag given without a value) are true; `false`,
/// `0`, `no` and `off` are false.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// `500ms`, `5s`, `2m`, `24h`, `1d` or plain seconds; a fraction is allowed (`0.5s`).
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write for example 500ms, 5s, 2m or 24h");
    let (number, unit) = split_unit(text);
    let seconds_per_unit = match unit.as_str() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let number = decimal(number).ok_or_else(wrong)?;
    // The cause only says that the number is too large, which the text shows.
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| wrong())
}

/// Bytes: `512`, `512k`, `10g`, `512MiB`, `1.5T`. Units are powers of 1,024, as in Docker's own
/// options; the spellings `k`, `kb` and `KiB` are the same.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write for example 512MiB or 10g");
    let (number, unit) = split_unit(text);
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let bytes = decimal(number).ok_or_else(wrong)? * (1u64 << shift) as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// A name of credentials, or `none`.
pub(super) fn parse_credentials(text: &str) -> Result<Option<CredentialsName>, String> {
    match text {
        "none" => Ok(None),
        text => CredentialsName::new(text).map(Some),
    }
}

/// Permission bits in octal: `644`, `0644`, `0o644`.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("{text:?} is not a mode; write permission bits in octal, such as 0644")),
    }
}

/// A whole number.
pub(super) fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    // Whatever the type has to say, the text and its range say more.
    text.parse().map_err(|_| format!("{text:?} is not a number in the allowed range"))
}

/// `none` or a limit above zero.
pub(super) fn parse_limit(
    text: &str,
    parse: fn(&str) -> Result<u64, String>,
) -> Result<Option<u64>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    match parse(text)? {
        0 => Err("a limit of 0 leaves no room; write none for no limit".to_owned()),
        limit => Ok(Some(limit)),
    }
}

/// One of a few words.
pub(super) fn parse_choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            format!("{text:?} is not one of {}", words.join(", "))
        })
}

/// `auto`, `none` or a media type.
pub(super) fn parse_content_type(text: &str) -> Result<ContentType, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(ContentType::Auto);
    }
    if text.eq_ignore_ascii_case("none") {
        return Ok(ContentType::None);
    }
    let halves = text.split_once('/').is_some_and(|(kind, rest)| {
        kind.starts_with(|c: char| c.is_ascii_alphanumeric())
            && rest.starts_with(|c: char| c.is_ascii_alphanumeric())
    });
    let plain = text.bytes().all(|b| (b' '..=b'~').contains(&b)) && !text.contains("  ");
    if halves && plain && text.len() <= 255 && !text.ends_with(' ') {
        return Ok(ContentType::Always(text.to_owned()));
    }
    Err(format!("{text:?} is no content type; write auto, none or for example image/png"))
}

/// Any text but the empty one.
pub(super) fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("needs a value".to_owned()) } else { Ok(text.to_owned()) }
}

fn split_unit(text: &str) -> (&str, String) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim().to_ascii_lowercase())
}

/// A plain decimal number; `f64`'s own parser would also take `inf`, `1e9` and `-1`.
fn decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}
