//! The parameters that a service gives its scheduler.

use crate::line::Line;
use core::fmt;

/// The parameters of the service: keys and values, in order of the keys.
///
/// A number or a boolean of the configuration arrives as its text.
#[derive(Debug, Clone, Copy)]
pub struct Params<'a> {
    /// `key=value\n` for each.
    lines: &'a str,
}

impl<'a> Params<'a> {
    #[doc(hidden)]
    pub fn new(lines: &'a str) -> Params<'a> {
        Params { lines }
    }

    /// All parameters.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.lines;
        core::iter::from_fn(move || {
            let (line, after) = split(rest, b'\n')?;
            rest = after;
            split(line, b'=')
        })
    }

    /// The value of this key, if it is given.
    pub fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find(|&(given, _)| given == key).map(|(_, value)| value)
    }

    /// Whether this key is `true`. One that is not given is `false`.
    ///
    /// # Errors
    /// When it is something else.
    #[allow(clippy::result_large_err)] // without an allocator, a sentence is where it is
    pub fn flag(self, key: &str) -> Result<bool, ParamError> {
        match self.get(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(value) => Err(ParamError::value(key, "takes true or false", value)),
        }
    }

    /// The number that this key is, if it is given: decimal digits, below 2^64.
    ///
    /// # Errors
    /// When it is something else.
    #[allow(clippy::result_large_err)] // as above
    pub fn number(self, key: &str) -> Result<Option<u64>, ParamError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match number(value) {
            Some(number) => Ok(Some(number)),
            None => Err(ParamError::value(key, "takes a number in decimal digits", value)),
        }
    }

    /// Refuses every key but these.
    ///
    /// # Errors
    /// Names the first key that is none of them, and them.
    #[allow(clippy::result_large_err)] // as above
    pub fn only(self, known: &[&str]) -> Result<(), ParamError> {
        match self.iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) => Err(ParamError::unknown(key, known)),
        }
    }
}

/// What is before the first such byte, an ASCII character, and what after. The search of the
/// standard library is several kilobytes, which every plugin would hold.
fn split(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Bytes of a sentence; a longer one is cut.
const SENTENCE_MAX: usize = 300;

/// Why parameters are refused: one sentence for the operator, which names the key and says what it
/// takes.
///
/// ```
/// use shunt_sdk::ParamError;
/// let error = ParamError::new("window takes 1 to 60 seconds");
/// assert_eq!(error.sentence(), "window takes 1 to 60 seconds");
/// let error = ParamError::value("window", "takes 1 to 60 seconds", "61");
/// assert_eq!(error.sentence(), "window takes 1 to 60 seconds, not \"61\"");
/// ```
#[derive(Clone)]
pub struct ParamError(Line<SENTENCE_MAX>);

impl ParamError {
    /// This sentence.
    pub fn new(sentence: &str) -> ParamError {
        let mut line = Line::new();
        line.push(sentence);
        ParamError(line)
    }

    /// The sentence that this key takes something else: `key takes true or false, not "value"`.
    pub fn value(key: &str, takes: &str, value: &str) -> ParamError {
        let mut error = ParamError::new(key);
        for part in [" ", takes, ", not \"", value, "\""] {
            error.0.push(part);
        }
        error
    }

    /// The sentence that there is no such key, and which there are.
    fn unknown(key: &str, known: &[&str]) -> ParamError {
        let mut error = ParamError::new("there is no parameter ");
        error.0.push(key);
        error.0.push(if known.is_empty() { "; this scheduler takes none" } else { "; there is " });
        for (index, known_key) in known.iter().enumerate() {
            if index > 0 {
                error.0.push(if index + 1 == known.len() { " and " } else { ", " });
            }
            error.0.push(known_key);
        }
        error
    }

    /// The sentence.
    pub fn sentence(&self) -> &str {
        self.0.text()
    }

    /// Its bytes, without another look at them.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for ParamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.sentence(), formatter)
    }
}

impl fmt::Display for ParamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.sentence())
    }
}

impl core::error::Error for ParamError {}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: &str = "empty=\nmh-port=true\nname=a=b\nquiet=false\nseconds=61\n";

    fn params() -> Params<'static> {
        Params::new(PARAMS)
    }

    #[test]
    fn each_line_is_a_key_and_a_value() {
        let all: Vec<_> = params().iter().collect();
        let expected = [
            ("empty", ""),
            ("mh-port", "true"),
            ("name", "a=b"),
            ("quiet", "false"),
            ("seconds", "61"),
        ];
        assert_eq!(all, expected);
        assert_eq!(params().get("name"), Some("a=b"));
        assert_eq!(params().get("nam"), None);
        assert_eq!(Params::new("").iter().count(), 0);
    }

    #[test]
    fn a_flag_is_true_or_false() {
        assert!(params().flag("mh-port").unwrap());
        assert!(!params().flag("quiet").unwrap());
        assert!(!params().flag("absent").unwrap());
        let error = params().flag("seconds").unwrap_err();
        assert_eq!(error.sentence(), "seconds takes true or false, not \"61\"");
        assert!(params().flag("empty").is_err());
    }

    #[test]
    fn a_number_has_decimal_digits_and_no_more() {
        assert_eq!(params().number("seconds").unwrap(), Some(61));
        assert_eq!(params().number("absent").unwrap(), None);
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for text in ["", "-1", "+1", "1.0", "1e3", " 1", "18446744073709551616", "٣"] {
            assert_eq!(number(text), None, "{text:?}");
        }
        let error = params().number("mh-port").unwrap_err();
        assert_eq!(error.sentence(), "mh-port takes a number in decimal digits, not \"true\"");
    }

    #[test]
    fn unknown_keys_are_named_beside_the_known_ones() {
        let known = ["empty", "mh-port", "name", "quiet", "seconds"];
        assert!(params().only(&known).is_ok());
        let sentence = |known: &[&str]| params().only(known).unwrap_err().to_string();
        assert_eq!(sentence(&[]), "there is no parameter empty; this scheduler takes none");
        assert_eq!(sentence(&["empty"]), "there is no parameter mh-port; there is empty");
        assert_eq!(
            sentence(&["empty", "mh-fallback", "mh-port"]),
            "there is no parameter name; there is empty, mh-fallback and mh-port"
        );
    }

    #[test]
    fn a_sentence_that_is_too_long_is_cut_between_characters() {
        let error = ParamError::value("key", "takes less", &"ü".repeat(500));
        assert_eq!(error.sentence().len(), SENTENCE_MAX - 1);
        assert!(error.sentence().ends_with('ü'));
    }
}
