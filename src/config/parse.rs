//! One setting: who gave it, and whether it is right.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use rustix::fs::Access;

use super::error::ConfigError;

/// What the command line or the environment gave for one setting.
pub(super) struct Given {
    name: &'static str,
    /// `None` where neither gave anything.
    pub(super) value: Option<String>,
}

impl Given {
    /// An empty variable counts as absent: that is how compose files and pools clear one.
    pub(super) fn find(
        flag: &'static str,
        value: Option<&str>,
        variable: &'static str,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        match value {
            Some(value) => Self {
                name: flag,
                value: Some(value.to_owned()),
            },
            None => Self {
                name: variable,
                // What is not UTF-8 is judged with its bad bytes replaced, which no setting allows.
                value: environment(variable)
                    .filter(|value| !value.is_empty())
                    .map(|value| value.to_string_lossy().into_owned()),
            },
        }
    }

    pub(super) fn parse_or<T>(
        self,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let Some(value) = self.value else {
            return Ok(default);
        };
        parse(value.trim()).map_err(|allowed| ConfigError {
            name: self.name,
            value,
            allowed,
        })
    }
}

pub(super) fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let names: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("allowed is {}", names.join(" or "))
    })
}

pub(super) fn seconds(least: f64, most: f64) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let seconds = text
            .parse::<f64>()
            .ok()
            .filter(|s| (least..=most).contains(s));
        seconds
            .map(Duration::from_secs_f64)
            .ok_or_else(|| format!("allowed is a number of seconds from {least} to {most}"))
    }
}

pub(super) fn count(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let count = text.parse().ok().filter(|n| (least..=most).contains(n));
        count.ok_or_else(|| format!("allowed is a whole number from {least} to {most}"))
    }
}

/// Bytes, plain or in KiB, MiB, GiB.
pub(super) fn bytes(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            _ => None,
        };
        let bytes = unit
            .zip(digits.parse::<u64>().ok())
            .and_then(|(unit, number)| number.checked_mul(unit))
            .filter(|n| (least..=most).contains(n));
        bytes.ok_or_else(|| {
            format!("allowed are bytes from {least} to {most}, also as KiB, MiB or GiB")
        })
    }
}

/// Values with commas between them.
pub(super) fn list<T: FromStr<Err = String>>(text: &str) -> Result<Vec<T>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .map(str::parse)
        .collect()
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("allowed is true or false".to_owned()),
    }
}

/// The text of a file that is TOML.
pub(super) fn toml_file(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("allowed is a TOML file that can be read ({error})"))?;
    match text.parse::<toml::Table>() {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("allowed is a TOML file ({})", error.message())),
    }
}

pub(super) fn writable_directory(text: &str) -> Result<PathBuf, String> {
    // Absolute: the sandbox's processes start elsewhere.
    let path = PathBuf::from(text).canonicalize().ok();
    path.filter(|path| is_writable_directory(path))
        .ok_or_else(|| "allowed is a directory that exists and can be written".to_owned())
}

/// Whether this process may create files in `path`.
fn is_writable_directory(path: &Path) -> bool {
    path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Names of Python modules with commas between them.
pub(super) fn module_names(text: &str) -> Result<Vec<String>, String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| match name.split('.').all(is_word) {
            true => Ok(name.to_owned()),
            false => Err("allowed are names of Python modules with commas between them".to_owned()),
        })
        .collect()
}
