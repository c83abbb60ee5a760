//! From method and path to the action that is meant. Pure: nothing is read, nothing is done.

use std::borrow::Cow;

use http::uri::Authority;
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run code and answer in this dialect.
    Execute(Dialect),
    /// `POST /api/v2/execute`, handed to the engine as it is.
    PassExecute,
    /// `GET /api/v2/runtimes`, handed to the engine as it is.
    PassRuntimes,
    /// The process lives.
    Health,
    /// A real execution has worked.
    Ready,
    /// What this is.
    About,
}

/// Whose words a client uses; it decides the form of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /{language}/execute`: a custom container's own, and `python/execute` of May 2024.
    Language(String),
    /// `POST /code/execute`: 2024-02-02-preview and 2024-08-02-preview.
    Code,
    /// `POST /execute`: 2024-09-01-preview and the custom-container sample.
    Execute,
    /// `POST /executions`: 2024-10-02-preview and later.
    Executions,
    /// `POST /shellExecute`: shell pools.
    Shell,
}

impl Action {
    /// The fixed name that logs carry.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Execute(Dialect::Language(_)) => "{language}/execute",
            Self::Execute(Dialect::Code) => "code/execute",
            Self::Execute(Dialect::Execute) => "execute",
            Self::Execute(Dialect::Executions) => "executions",
            Self::Execute(Dialect::Shell) => "shellExecute",
            Self::PassExecute => "api/v2/execute",
            Self::PassRuntimes => "api/v2/runtimes",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::About => "about",
        }
    }

    /// The method that it takes, as the `Allow` header has it.
    fn allow(&self) -> &'static str {
        match self {
            Self::Execute(_) | Self::PassExecute => "POST",
            Self::PassRuntimes | Self::Health | Self::Ready | Self::About => "GET, HEAD",
        }
    }
}

/// Finds the action. Empty segments do not count, so trailing and doubled slashes are harmless.
///
/// # Errors
/// [`ApiError::PathNotFound`], [`ApiError::MethodNotAllowed`], [`ApiError::TargetInvalid`].
pub fn route(method: &Method, target: &Uri) -> Result<Action, ApiError> {
    // RFC 9110, 4.2.4: user information in an http URI is an error.
    let has_user = |authority: &Authority| authority.as_str().contains('@');
    if target.authority().is_some_and(has_user) {
        return Err(ApiError::TargetInvalid);
    }
    let segments = target
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode)
        .collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let action = match segments.as_slice() {
        [] => Action::About,
        ["health"] => Action::Health,
        ["ready"] | ["health", "startup"] => Action::Ready,
        ["execute"] => Action::Execute(Dialect::Execute),
        ["executions"] => Action::Execute(Dialect::Executions),
        ["shellExecute"] => Action::Execute(Dialect::Shell),
        ["code", "execute"] => Action::Execute(Dialect::Code),
        ["api", "v2", "execute"] => Action::PassExecute,
        ["api", "v2", "runtimes"] => Action::PassRuntimes,
        [language, "execute"] => Action::Execute(Dialect::Language((*language).to_owned())),
        _ => return Err(ApiError::PathNotFound),
    };
    let allow = action.allow();
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        Ok(action)
    } else {
        Err(ApiError::MethodNotAllowed { allow })
    }
}

fn decode(segment: &str) -> Result<Cow<'_, str>, ApiError> {
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !segment.split('%').skip(1).all(is_escape) {
        return Err(ApiError::TargetInvalid);
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| ApiError::TargetInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &Method, target: &str) -> Result<Action, ApiError> {
        super::route(method, &target.parse().unwrap())
    }

    fn post(path: &str) -> Action {
        route(&Method::POST, path).unwrap()
    }

    #[test]
    fn each_dialect_has_its_path() {
        assert_eq!(post("/code/execute"), Action::Execute(Dialect::Code));
        assert_eq!(post("/execute"), Action::Execute(Dialect::Execute));
        assert_eq!(post("/executions"), Action::Execute(Dialect::Executions));
        assert_eq!(post("/shellExecute"), Action::Execute(Dialect::Shell));
        assert_eq!(post("/api/v2/execute"), Action::PassExecute);
        let language = |name: &str| Action::Execute(Dialect::Language(name.to_owned()));
        assert_eq!(post("/python/execute"), language("python"));
        assert_eq!(post("/c++/execute"), language("c++"));
        assert_eq!(post("/c%2B%2B/execute"), language("c++"));
    }

    #[test]
    fn extra_slashes_are_harmless() {
        assert_eq!(post("//python//execute/"), post("/python/execute"));
        assert_eq!(route(&Method::GET, "//").unwrap(), Action::About);
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        for (method, path, expected) in [
            (Method::GET, "/python/execute", "POST"),
            (Method::TRACE, "/executions", "POST"),
            (Method::POST, "/health", "GET, HEAD"),
            (Method::OPTIONS, "/", "GET, HEAD"),
        ] {
            match route(&method, path) {
                Err(ApiError::MethodNotAllowed { allow }) => assert_eq!(allow, expected),
                other => panic!("{method} {path}: {other:?}"),
            }
        }
        assert_eq!(route(&Method::HEAD, "/ready").unwrap(), Action::Ready);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in ["/python", "/python/execute/x", "/api/v1/execute", "/a/b/c"] {
            assert!(
                matches!(route(&Method::POST, path), Err(ApiError::PathNotFound)),
                "{path}"
            );
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_invalid() {
        for target in [
            "/%ff/execute",
            "/%zz/execute",
            "/%4/execute",
            "http://%@a/",
            "http://u:p@a/",
        ] {
            assert!(
                matches!(route(&Method::POST, target), Err(ApiError::TargetInvalid)),
                "{target}"
            );
        }
    }
}
