//! Values of settings: what is allowed, and what an error says about it.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, Command, ValueEnum};
use rustix::fs::Access;

/// The port of an address without one.
const DEFAULT_PORT: u16 = 2000;

/// The error for a value of `name`, a flag or an environment variable.
pub(super) fn invalid(name: &str, value: &OsStr, expected: impl Display) -> clap::Error {
    let value = value.to_string_lossy();
    let message = format!("invalid value '{value}' for {name}: expected {expected}\n");
    clap::Error::raw(ErrorKind::ValueValidation, message)
}

/// What gave an argument its value: the environment variable or the flag.
pub(super) fn source_name(arg: Option<&Arg>, source: ValueSource) -> String {
    let variable = arg.and_then(Arg::get_env).and_then(OsStr::to_str);
    match (source, variable) {
        (ValueSource::EnvVariable, Some(variable)) => variable.to_owned(),
        _ => format!("--{}", arg.and_then(Arg::get_long).unwrap_or_default()),
    }
}

/// Parses a trimmed value with a function whose error says what is expected.
#[derive(Clone)]
struct Parser<F>(F);

impl<T, F> TypedValueParser for Parser<F>
where
    T: Clone + Send + Sync + 'static,
    F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        _: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<T, clap::Error> {
        // No setting allows the replacement character.
        let parsed = (self.0)(value.to_string_lossy().trim());
        parsed.map_err(|expected| invalid(&source_name(arg, source), value, expected))
    }
}

/// A time in seconds.
pub(super) fn seconds(min: f64, max: f64) -> impl TypedValueParser<Value = Duration> {
    Parser(move |text: &str| {
        let seconds = text.parse().ok().filter(|s| (min..=max).contains(s));
        seconds
            .map(Duration::from_secs_f64)
            .ok_or_else(|| format!("a number of seconds from {min} to {max}"))
    })
}

/// A whole number.
pub(super) fn count(min: usize, max: usize) -> impl TypedValueParser<Value = usize> {
    Parser(move |text: &str| {
        let count = text.parse().ok().filter(|n| (min..=max).contains(n));
        count.ok_or_else(|| format!("a whole number from {min} to {max}"))
    })
}

/// Bytes, plain or in KiB, MiB, GiB.
pub(super) fn bytes(min: u64, max: u64) -> impl TypedValueParser<Value = u64> {
    Parser(move |text: &str| {
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
            .filter(|n| (min..=max).contains(n));
        bytes.ok_or_else(|| format!("bytes from {min} to {max}, also as KiB, MiB or GiB"))
    })
}

/// One of the names of a type, in upper or lower case.
pub(super) fn choice<T: ValueEnum + Send + Sync + 'static>() -> impl TypedValueParser<Value = T> {
    Parser(|text: &str| {
        T::from_str(text, true).map_err(|_| {
            let values = T::value_variants().iter();
            let names: Vec<String> = values
                .filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()))
                .collect();
            names.join(" or ")
        })
    })
}

/// A flag without a value, or a variable that says yes or no.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    Parser(|text: &str| match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("true or false".to_owned()),
    })
}

/// A type that says itself what is expected.
pub(super) fn parsed<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    Parser(|text: &str| text.parse())
}

/// Values with commas between them.
pub(super) fn list<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl TypedValueParser<Value = Vec<T>> {
    Parser(move |text: &str| {
        let values = text.split(',').map(str::trim);
        values
            .filter(|value| !value.is_empty())
            .map(parse)
            .collect()
    })
}

/// The text of a TOML file.
pub(super) fn toml_file() -> impl TypedValueParser<Value = String> {
    Parser(|path: &str| {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("a TOML file that can be read ({error})"))?;
        match text.parse::<toml::Table>() {
            Ok(_) => Ok(text),
            Err(error) => Err(format!("a TOML file ({})", error.message())),
        }
    })
}

/// A directory in which this process may create files.
pub(super) fn writable_directory() -> impl TypedValueParser<Value = PathBuf> {
    Parser(|text: &str| {
        let is_writable = |path: &PathBuf| {
            path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
        };
        // Absolute: the sandbox's processes start elsewhere.
        let path = PathBuf::from(text).canonicalize().ok();
        path.filter(is_writable)
            .ok_or_else(|| "a directory that exists and can be written".to_owned())
    })
}

/// The URL of an adapter, without a slash at its end.
pub(super) fn url() -> impl TypedValueParser<Value = String> {
    Parser(|text: &str| {
        let uri = text.parse::<http::Uri>().ok();
        let is_plain = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
        });
        match is_plain {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => Err("http://HOST:PORT".to_owned()),
        }
    })
}

/// A name of a Python module.
pub(super) fn module_name(text: &str) -> Result<String, String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match text.split('.').all(is_word) {
        true => Ok(text.to_owned()),
        false => Err("names of Python modules with commas between them".to_owned()),
    }
}

/// `localhost` replaced by its address: no other name is resolved.
fn resolve_localhost(text: &str) -> String {
    match text.strip_prefix("localhost") {
        Some(rest) if rest.is_empty() || rest.starts_with(':') => format!("127.0.0.1{rest}"),
        _ => text.to_owned(),
    }
}

/// An address with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress {
    ip: IpAddr,
    port: Option<u16>,
}

impl ListenAddress {
    /// The address with its port, else with that of `PORT`, else with 2000.
    ///
    /// # Errors
    /// Where `PORT` is needed and is no port.
    pub(super) fn with_port(self, port: Option<OsString>) -> Result<SocketAddr, clap::Error> {
        let port = match (self.port, port.filter(|text| !text.is_empty())) {
            (Some(port), _) => port,
            (None, None) => DEFAULT_PORT,
            (None, Some(text)) => {
                let port = text.to_str().and_then(|text| text.trim().parse().ok());
                port.ok_or_else(|| invalid("PORT", &text, "a port from 0 to 65535"))?
            }
        };
        Ok(SocketAddr::from((self.ip, port)))
    }

    /// An address at which this machine reaches a listener.
    pub(super) fn reachable(self) -> Self {
        let ip = match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self { ip, ..self }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = resolve_localhost(text);
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let with_port = text.parse().map(|address: SocketAddr| Self {
            ip: address.ip(),
            port: Some(address.port()),
        });
        with_port
            .or_else(|_| {
                let ip = bare.unwrap_or(&text).parse();
                ip.map(|ip| Self { ip, port: None })
            })
            .map_err(|_| {
                "ADDRESS or ADDRESS:PORT, where ADDRESS is an IP address or localhost (other names \
                 are not resolved), such as 127.0.0.1:2000"
                    .to_owned()
            })
    }
}

/// Where the metrics can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsPlace {
    /// At `/metrics` among the adapter's other paths.
    Path,
    /// At `/metrics` of a listener of their own.
    Listener(SocketAddr),
    /// Nowhere.
    Off,
}

impl Display for MetricsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("on"),
            Self::Listener(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl FromStr for MetricsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" => Ok(Self::Path),
            "off" => Ok(Self::Off),
            address => resolve_localhost(address)
                .parse()
                .map(Self::Listener)
                .map_err(|_| {
                    "on, off or ADDRESS:PORT, where ADDRESS is an IP address or localhost, such as \
                     127.0.0.1:9464"
                        .to_owned()
                }),
        }
    }
}

/// The base address of a Piston API: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PistonUrl {
    host: String,
    port: u16,
}

impl PistonUrl {
    /// The address as a URL without a slash at its end.
    pub fn base(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// The loopback address the embedded engine listens on; `None` if it is not one.
    pub fn loopback(&self) -> Option<SocketAddr> {
        let address: SocketAddr = resolve_localhost(&format!("{}:{}", self.host, self.port))
            .parse()
            .ok()?;
        address.ip().is_loopback().then_some(address)
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }
}

impl FromStr for PistonUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let uri: http::Uri = text.parse().ok()?;
            let authority = uri.authority()?;
            let is_plain = uri.scheme_str() == Some("http")
                && matches!(uri.path(), "" | "/")
                && uri.query().is_none()
                && !authority.as_str().contains('@')
                && !authority.host().is_empty();
            is_plain.then_some(Self {
                host: authority.host().to_owned(),
                port: authority.port_u16()?,
            })
        };
        parse().ok_or_else(|| "http://HOST:PORT".to_owned())
    }
}
