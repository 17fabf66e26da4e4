//! From words and variables to settings, by the rules of Go's package `flag` and of etcd's variables. Knows the table of
//! flags and the form of each kind of value; what the values mean together is for `build`.
//!
//! This is not done with a command-line crate: Go's rules (one dash or two, no bundling, no abbreviation, a switch that
//! never takes the next word, the last of several wins, a value checked where it stands) are what none of them follows.

use std::{collections::BTreeMap, ffi::OsString};

use super::{
    ConfigError, Warning,
    flags::{self, FLAGS, Flag, Kind},
    gates::Gates,
    url, value,
};

/// What was set, by the flag's name; every value has its kind's form.
#[derive(Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Vec<String>>,
    /// They come from a file, in place of words and variables.
    pub from_file: bool,
    pub warnings: Vec<Warning>,
}

impl Settings {
    pub fn from_file() -> Self {
        Settings { from_file: true, ..Settings::default() }
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Every value given, first to last; none: the default holds.
    pub fn all(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value given, or the default.
    pub fn text(&self, name: &'static str) -> &str {
        match self.all(name).last() {
            Some(value) => value,
            None => flags::find(name).expect("settings are asked for by names of the table").default,
        }
    }

    pub fn flag(&self, name: &'static str) -> bool {
        value::parse_bool(self.text(name)).expect("checked when it was set")
    }

    pub fn uint(&self, name: &'static str) -> u64 {
        value::parse_uint(self.text(name)).expect("checked when it was set")
    }

    pub fn int(&self, name: &'static str) -> i64 {
        value::parse_int(self.text(name)).expect("checked when it was set")
    }

    /// In nanoseconds.
    pub fn duration(&self, name: &'static str) -> i64 {
        value::parse_duration(self.text(name)).expect("checked when it was set")
    }

    /// The flags that were set, by name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.given.keys().copied()
    }

    pub fn put(&mut self, flag: &'static Flag, value: String) -> Result<(), String> {
        check(flag.kind, &value)?;
        self.given.entry(flag.name).or_default().push(value);
        Ok(())
    }
}

/// What the words ask for.
#[derive(Debug)]
pub enum Asked {
    Settings(Settings),
    Help,
    Version,
}

/// Reads the words after the program's name.
pub fn read_words(words: impl Iterator<Item = OsString>) -> Result<Asked, ConfigError> {
    let mut settings = Settings::default();
    let mut words = words.map(|word| {
        word.into_string().map_err(|word| ConfigError::usage(format!("argument is not valid UTF-8: {word:?}")))
    });
    let mut stray = None;
    while let Some(word) = words.next() {
        let word = word?;
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            stray = Some(word);
            break;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            stray = words.next().transpose()?;
            break;
        }
        if body.starts_with(['-', '=']) {
            return Err(ConfigError::usage(format!("bad flag syntax: {word}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = flags::find(name) else {
            if matches!(name, "help" | "h") {
                return Ok(Asked::Help);
            }
            let error = ConfigError::usage(format!("flag provided but not defined: -{name}"));
            return Err(match flags::nearest(name) {
                Some(nearest) => error.hint(format!("did you mean --{nearest}?")),
                None => error,
            });
        };
        if flag.kind.is_switch() {
            let value = given.unwrap_or_else(|| "true".into());
            settings
                .put(flag, value.clone())
                .map_err(|cause| ConfigError::usage(format!("invalid boolean value {value:?} for -{name}: {cause}")))?;
            continue;
        }
        let value = match given {
            Some(value) => value,
            None => match words.next() {
                Some(value) => value?,
                None => return Err(ConfigError::usage(format!("flag needs an argument: -{name}"))),
            },
        };
        settings
            .put(flag, value.clone())
            .map_err(|cause| ConfigError::usage(format!("invalid value {value:?} for flag -{name}: {cause}")))?;
    }
    if let Some(stray) = stray {
        return Err(ConfigError::invalid(format!("{stray:?} is not a valid flag")));
    }
    if settings.is_set("version") && settings.flag("version") {
        return Ok(Asked::Version);
    }
    Ok(Asked::Settings(settings))
}

/// The variable that stands for a flag.
pub fn variable_of(name: &str) -> String {
    format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Adds what variables say. A variable beside its flag is an error, an unknown one a warning.
pub fn read_variables(
    settings: &mut Settings,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let by_variable: BTreeMap<String, &'static Flag> =
        FLAGS.iter().map(|flag| (variable_of(flag.name), flag)).collect();
    let mut variables: Vec<(String, String)> =
        variables.filter(|(variable, _)| variable.starts_with("ETCD_")).collect();
    variables.sort();
    let mut invalid = None;
    for (variable, value) in variables {
        let flag = match by_variable.get(&variable) {
            // Package operators have set it for a release's name; it never was the flag.
            Some(flag) if flag.name == "version" => {
                settings.warnings.push(Warning::new("cannot set special environment variable", &variable, value));
                continue;
            }
            Some(flag) => *flag,
            None => {
                settings.warnings.push(Warning::new("unrecognized environment variable", &variable, value));
                continue;
            }
        };
        if settings.is_set(flag.name) {
            return Err(ConfigError::invalid(format!(
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)): {variable}"
            )));
        }
        if value.is_empty() {
            continue;
        }
        if let Err(cause) = settings.put(flag, value.clone()) {
            invalid = Some(ConfigError::invalid(format!("invalid value {value:?} for {variable}: {cause}")));
        }
    }
    invalid.map_or(Ok(()), Err)
}

/// Whether a value has its kind's form; the error is Go's or etcd's text.
fn check(kind: Kind, value: &str) -> Result<(), String> {
    let number = |result: Result<(), value::BadNumber>| result.map_err(|bad| bad.of_flag().to_owned());
    match kind {
        Kind::Text | Kind::Ignored => Ok(()),
        Kind::Bool => value::parse_bool(value).map(|_| ()).ok_or_else(|| "parse error".into()),
        Kind::Uint => number(value::parse_uint(value).map(|_| ())),
        Kind::Int => number(value::parse_int(value).map(|_| ())),
        Kind::Uint32 => {
            let parsed =
                value::parse_uint(value).and_then(|number| u32::try_from(number).map_err(|_| value::BadNumber::Range));
            parsed.map(|_| ()).map_err(|bad| format!("strconv.ParseUint: parsing {value:?}: {}", bad.of_strconv()))
        }
        Kind::Duration => value::parse_duration(value).map(|_| ()).map_err(|_| "parse error".into()),
        Kind::Urls if value.is_empty() => Ok(()),
        Kind::Origins if value == "*" => Ok(()),
        Kind::Urls | Kind::Origins => url::parse_list(value).map(|_| ()),
        Kind::Choice(choices) if choices.contains(&value) => Ok(()),
        Kind::Choice(_) => Err("invalid value".into()),
        Kind::Choices(choices) => match value.split(',').find(|part| !choices.contains(part)) {
            Some(part) => Err(format!("invalid value {part:?}")),
            None => Ok(()),
        },
        Kind::Gates => Gates::default().read(value),
    }
}
