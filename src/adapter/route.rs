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
    /// Tell how an execution stands.
    GetExecution(String),
    /// `GET /session`.
    GetSession,
    /// `DELETE /session`.
    DeleteSession,
    /// `POST /.management/stopSession`.
    StopSession,
    /// `GET /listSessions`.
    ListSessions,
    /// `GET /metadata`: what programs can use.
    Metadata,
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
            Self::GetExecution(_) => "executions/{id}",
            Self::GetSession | Self::DeleteSession => "session",
            Self::StopSession => ".management/stopSession",
            Self::ListSessions => "listSessions",
            Self::Metadata => "metadata",
            Self::PassExecute => "api/v2/execute",
            Self::PassRuntimes => "api/v2/runtimes",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::About => "about",
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
    let offered = offered(&segments).ok_or(ApiError::PathNotFound)?;
    let asked = match *method {
        Method::HEAD => &Method::GET,
        ref other => other,
    };
    match offered {
        Offered::Get(action) if asked == Method::GET => Ok(action),
        Offered::Post(action) if asked == Method::POST => Ok(action),
        Offered::GetOrDelete(action, _) if asked == Method::GET => Ok(action),
        Offered::GetOrDelete(_, action) if asked == Method::DELETE => Ok(action),
        other => Err(ApiError::MethodNotAllowed {
            allow: other.allow(),
        }),
    }
}

/// What a path offers, by method.
enum Offered {
    Get(Action),
    Post(Action),
    GetOrDelete(Action, Action),
}

impl Offered {
    /// As the `Allow` header has it.
    fn allow(&self) -> &'static str {
        match self {
            Self::Get(_) => "GET, HEAD",
            Self::Post(_) => "POST",
            Self::GetOrDelete(..) => "GET, HEAD, DELETE",
        }
    }
}

fn offered(segments: &[&str]) -> Option<Offered> {
    use Offered::{Get, GetOrDelete, Post};
    Some(match segments {
        [] => Get(Action::About),
        ["health"] => Get(Action::Health),
        ["ready"] | ["health", "startup"] => Get(Action::Ready),
        ["execute"] => Post(Action::Execute(Dialect::Execute)),
        ["executions"] => Post(Action::Execute(Dialect::Executions)),
        ["executions", id] => Get(Action::GetExecution((*id).to_owned())),
        ["shellExecute"] => Post(Action::Execute(Dialect::Shell)),
        ["code", "execute"] => Post(Action::Execute(Dialect::Code)),
        ["session"] => GetOrDelete(Action::GetSession, Action::DeleteSession),
        [".management", "stopSession"] => Post(Action::StopSession),
        ["listSessions"] => Get(Action::ListSessions),
        ["metadata"] => Get(Action::Metadata),
        ["api", "v2", "execute"] => Post(Action::PassExecute),
        ["api", "v2", "runtimes"] => Get(Action::PassRuntimes),
        [language, "execute"] => Post(Action::Execute(Dialect::Language((*language).to_owned()))),
        _ => return None,
    })
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
    fn the_session_and_its_executions_have_theirs() {
        let get = |path| route(&Method::GET, path).unwrap();
        assert_eq!(
            get("/executions/a%2Fb"),
            Action::GetExecution("a/b".to_owned())
        );
        assert_eq!(get("/session"), Action::GetSession);
        assert_eq!(
            route(&Method::DELETE, "/session").unwrap(),
            Action::DeleteSession
        );
        assert_eq!(get("/listSessions/"), Action::ListSessions);
        assert_eq!(get("/metadata"), Action::Metadata);
        assert_eq!(post("/.management/stopSession"), Action::StopSession);
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
            (Method::PUT, "/session", "GET, HEAD, DELETE"),
            (Method::GET, "/.management/stopSession", "POST"),
            (Method::POST, "/executions/x", "GET, HEAD"),
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
