//! Schedulers by name: `my` is the plugin's current version, `my@3` its version 3 whatever comes
//! later. And what a service tells its scheduler: parameters.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

pub use plugin_host::Params;

/// Characters of a plugin's name, at most.
pub const NAME_MAX: usize = 32;
/// Characters of a parameter's key, at most.
pub const PARAM_KEY_MAX: usize = 64;
/// Bytes of a parameter's value, at most.
pub const PARAM_VALUE_MAX: usize = 256;
/// Bytes of all parameters, at most, each written as a line `key=value` (plugins/ABI.md).
pub const PARAMS_MAX: usize = 4096;

/// The name of a plugin: a to z, 0 to 9, `_` and `-`, the first a letter or a digit, at most
/// [`NAME_MAX`] of them. It is a file's name, a label's value and a part of a path as it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(String);

impl PluginName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for PluginName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PluginName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PluginName {
    type Err = String;

    fn from_str(text: &str) -> Result<PluginName, String> {
        let how = format!(
            "write a to z, 0 to 9, _ and -, the first a letter or a digit, at most {NAME_MAX} of them"
        );
        if text.is_empty() {
            return Err(format!("a plugin needs a name: {how}"));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.chars().count() > NAME_MAX
            || !text.starts_with(allowed)
            || !text.chars().all(|c| allowed(c) || matches!(c, '_' | '-'))
        {
            return Err(format!("{text:?} is no name of a plugin: {how}"));
        }
        Ok(PluginName(text.to_owned()))
    }
}

/// A scheduler as config, commands and the API name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchedulerName {
    /// The plugin.
    pub name: PluginName,
    /// Its version, if the service stays with one: 0 is the stock plugin, 1 the first that was
    /// uploaded under the name. `None`: the current one.
    pub version: Option<u32>,
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(f, "{}", self.name),
            Some(version) => write!(f, "{}@{version}", self.name),
        }
    }
}

impl FromStr for SchedulerName {
    type Err = String;

    fn from_str(text: &str) -> Result<SchedulerName, String> {
        let Some((name, version)) = text.split_once('@') else {
            return Ok(SchedulerName { name: text.parse()?, version: None });
        };
        let name: PluginName = name.parse()?;
        // Digits only: u32's own parser takes a sign, too.
        let number = version.bytes().all(|byte| byte.is_ascii_digit()).then(|| version.parse());
        match number {
            Some(Ok(version)) => Ok(SchedulerName { name, version: Some(version) }),
            _ => Err(format!(
                "{version:?} is no version of {name}: write a number as in {name}@1, or {name} for its current version"
            )),
        }
    }
}

impl From<PluginName> for SchedulerName {
    fn from(name: PluginName) -> SchedulerName {
        SchedulerName { name, version: None }
    }
}

impl Serialize for PluginName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PluginName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PluginName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for SchedulerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SchedulerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SchedulerName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether a parameter is written as the plugins' contract asks. What its plugin makes of it is
/// the plugin's word.
pub fn check_param(key: &str, value: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if key.is_empty() || key.len() > PARAM_KEY_MAX || !key.chars().all(allowed) {
        return Err(format!(
            "{key:?} is no key of a parameter: write letters, digits, _ and -, at most {PARAM_KEY_MAX} of them"
        ));
    }
    if value.len() > PARAM_VALUE_MAX {
        return Err(format!(
            "the value of the parameter {key} has {} bytes: write at most {PARAM_VALUE_MAX}",
            value.len()
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(format!(
            "the value of the parameter {key} has control characters: write it on one line, without them"
        ));
    }
    Ok(())
}

/// Whether all parameters of a service are written as the plugins' contract asks, and fit.
pub fn check_params(params: &Params) -> Result<(), String> {
    params.iter().try_for_each(|(key, value)| check_param(key, value))?;
    let bytes: usize = params.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if bytes > PARAMS_MAX {
        return Err(format!(
            "the parameters have {bytes} bytes, each written as a line key=value: there is room for {PARAMS_MAX}"
        ));
    }
    Ok(())
}

/// Knows the stock plugins and nothing else: see [`Known`](crate::config::Known).
pub fn stock_only(_state_dir: &Path, scheduler: &SchedulerName) -> Result<(), String> {
    let stock = plugin_host::STOCK;
    if !stock.contains(&scheduler.name.as_str()) {
        return Err(format!(
            "unknown scheduler \"{scheduler}\": write one of {}",
            stock.join(", ")
        ));
    }
    match scheduler.version {
        None | Some(0) => Ok(()),
        Some(_) => Err(format!(
            "there is no {scheduler}, as no plugin {0} was uploaded: write {0} for the stock plugin",
            scheduler.name
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["rr", "my-own_2", "0", "my@0", "my@3", "my@4294967295"] {
            assert_eq!(name.parse::<SchedulerName>().unwrap().to_string(), name);
        }
        assert_eq!("my@3".parse::<SchedulerName>().unwrap().version, Some(3));
        let json: SchedulerName = serde_json::from_str("\"my@3\"").unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), "\"my@3\"");
    }

    #[test]
    fn a_bad_name_says_how_to_write_it() {
        let long = "a".repeat(NAME_MAX + 1);
        for (text, expected) in [
            ("", "needs a name"),
            ("@3", "needs a name"),
            ("My", "\"My\" is no name of a plugin: write a to z"),
            ("-my", "the first a letter or a digit"),
            ("_my", "the first a letter or a digit"),
            ("../my", "\"../my\" is no name"),
            ("mÿ", "\"mÿ\" is no name"),
            ("my\n", "\"my\\n\" is no name"),
            (&long, "at most 32"),
            ("my@", "\"\" is no version of my: write a number as in my@1"),
            ("my@+3", "\"+3\" is no version of my"),
            ("my@-1", "\"-1\" is no version of my"),
            ("my@1.0", "\"1.0\" is no version of my"),
            ("my@3@4", "\"3@4\" is no version of my"),
            ("my@4294967296", "or my for its current version"),
        ] {
            let error = text.parse::<SchedulerName>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_bad_parameter_is_named() {
        let (long_key, long_value) = ("k".repeat(65), "v".repeat(257));
        for (key, value, expected) in [
            ("", "1", "\"\" is no key"),
            ("a b", "1", "\"a b\" is no key"),
            ("a=b", "1", "\"a=b\" is no key"),
            ("ä", "1", "is no key"),
            (&*long_key, "1", "at most 64"),
            ("k", &*long_value, "has 257 bytes: write at most 256"),
            ("k", "a\nb", "parameter k has control characters"),
            ("k", "\u{85}", "parameter k has control characters"),
        ] {
            let error = check_param(key, value).unwrap_err();
            assert!(error.contains(expected), "{key}={value}: {error}");
        }
        assert_eq!(check_param(&long_key[1..], &long_value[1..]), Ok(()));
        assert_eq!(check_param("mh-port", ""), Ok(()));
    }

    #[test]
    fn parameters_fit_a_page() {
        let params = |count: usize| -> Params {
            // Sixteen lines of 256 bytes are 4096.
            (0..count).map(|n| (format!("{n:02}"), "v".repeat(252))).collect()
        };
        assert_eq!(check_params(&params(16)), Ok(()));
        assert!(check_params(&params(17)).unwrap_err().contains("have 4352 bytes"));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "[a-z0-9A-Z_@-]{0,40}") {
            if let Ok(name) = text.parse::<SchedulerName>() {
                prop_assert_eq!(&name.to_string().parse::<SchedulerName>().unwrap(), &name);
                let plugin = name.name.as_str();
                prop_assert!(plugin.len() <= NAME_MAX && !plugin.contains('@'));
            }
        }

        #[test]
        fn every_name_of_the_allowed_characters_is_read(
            name in "[a-z0-9][a-z0-9_-]{0,31}", version in proptest::option::of(any::<u32>()),
        ) {
            let name = SchedulerName { name: name.parse().unwrap(), version };
            prop_assert_eq!(name.to_string().parse::<SchedulerName>(), Ok(name));
        }
    }
}
