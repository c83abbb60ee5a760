//! Maps method and path to an action. Pure: it reads nothing and does nothing.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::adapter::azure::dialect::{Dialect, FilesForm};
use crate::adapter::azure::error::ApiError;

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
    ProxyExecute,
    /// Fetch the engine's runtimes and pass them on as they are.
    ProxyRuntimes,
    /// List the engine's packages in Piston's form.
    Packages,
    Health,
    /// A real execution has worked.
    Ready,
    About,
    Metrics,
    Files(FilesAction),
}

/// What a request wants of the session's files. Names are as the client wrote them, percent-decoded
/// and not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesAction {
    /// What there is, in this form.
    List(FilesForm),
    /// Take files, and answer in this form.
    Upload(FilesForm),
    /// What is known of a file.
    Entry(String),
    Delete(String),
    /// The bytes of a file.
    Content(String),
    /// The bytes of a file whose name may have folders ahead of it.
    NestedContent(String),
    /// The bytes of the file that the query names.
    PythonDownload,
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
            Self::ProxyExecute => "api/v2/execute",
            Self::ProxyRuntimes => "api/v2/runtimes",
            Self::Packages => "api/v2/packages",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::About => "about",
            Self::Metrics => "metrics",
            Self::Files(FilesAction::List(FilesForm::Values)) => "python/files",
            Self::Files(FilesAction::List(_)) => "files",
            Self::Files(FilesAction::Upload(FilesForm::Values)) => "python/uploadFile",
            Self::Files(FilesAction::Upload(FilesForm::Value)) => "files/upload",
            Self::Files(FilesAction::Upload(FilesForm::Flat)) => "files",
            Self::Files(FilesAction::Entry(_) | FilesAction::Delete(_)) => "files/{name}",
            Self::Files(FilesAction::Content(_)) => "files/{name}/content",
            Self::Files(FilesAction::NestedContent(_)) => "files/content/{name}",
            Self::Files(FilesAction::PythonDownload) => "python/downloadFile",
        }
    }
}

/// Finds the action. Empty segments do not count, so trailing and doubled slashes are harmless.
///
/// # Errors
/// [`ApiError::PathNotFound`], [`ApiError::MethodNotAllowed`], [`ApiError::TargetInvalid`].
pub fn route(method: &Method, target: &Uri) -> Result<Action, ApiError> {
    // RFC 3986, 2: what is not ASCII is percent-encoded.
    let is_ascii = |target: &PathAndQuery| target.as_str().is_ascii();
    if !target.path_and_query().is_none_or(is_ascii) {
        return Err(ApiError::TargetInvalid);
    }
    // RFC 9112, 3.2.4: OPTIONS alone may ask of all paths together.
    if *method == Method::OPTIONS && target.path() == "*" {
        return Err(ApiError::MethodNotAllowed {
            allow: "GET, HEAD, POST, DELETE",
        });
    }
    // RFC 9110, 4.2.4: user information in an http URI is an error.
    let has_user = |authority: &Authority| authority.as_str().contains('@');
    if target.authority().is_some_and(has_user) {
        return Err(ApiError::TargetInvalid);
    }
    // RFC 9112, 3.2: a path, or an absolute URI; a bare authority is for CONNECT alone.
    let is_http = matches!(target.scheme_str(), Some("http" | "https"));
    let is_path = target.authority().is_none() && target.path().starts_with('/');
    if !is_http && !is_path && *method != Method::CONNECT {
        return Err(ApiError::TargetInvalid);
    }
    let segments = target
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode)
        .collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let offered = offered(below_pool(&segments)).ok_or(ApiError::PathNotFound)?;
    let asked = match *method {
        Method::HEAD => &Method::GET,
        ref other => other,
    };
    match offered {
        Offered::Get(action) if asked == Method::GET => Ok(action),
        Offered::Post(action) if asked == Method::POST => Ok(action),
        Offered::GetOrPost(action, _) | Offered::GetOrDelete(action, _) if asked == Method::GET => {
            Ok(action)
        }
        Offered::GetOrPost(_, action) if asked == Method::POST => Ok(action),
        Offered::GetOrDelete(_, action) if asked == Method::DELETE => Ok(action),
        other => Err(ApiError::MethodNotAllowed {
            allow: other.allow(),
        }),
    }
}

/// What follows the path of the session pool. Clients that have the pool's address keep it.
fn below_pool<'s, 'p>(segments: &'s [&'p str]) -> &'s [&'p str] {
    let is = |segment: &str, name: &str| segment.eq_ignore_ascii_case(name);
    match segments {
        [s, _, g, _, p, _, below @ ..]
            if is(s, "subscriptions") && is(g, "resourceGroups") && is(p, "sessionPools") =>
        {
            below
        }
        all => all,
    }
}

/// What a path offers, by method.
enum Offered {
    Get(Action),
    Post(Action),
    GetOrPost(Action, Action),
    GetOrDelete(Action, Action),
}

impl Offered {
    /// As the `Allow` header has it.
    fn allow(&self) -> &'static str {
        match self {
            Self::Get(_) => "GET, HEAD",
            Self::Post(_) => "POST",
            Self::GetOrPost(..) => "GET, HEAD, POST",
            Self::GetOrDelete(..) => "GET, HEAD, DELETE",
        }
    }
}

fn offered(segments: &[&str]) -> Option<Offered> {
    use Offered::{Get, GetOrDelete, Post};
    if let Some(offered) = files(segments) {
        return Some(offered);
    }
    Some(match segments {
        [] => Get(Action::About),
        ["health"] => Get(Action::Health),
        ["metrics"] => Get(Action::Metrics),
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
        // Clients of the former public Piston instance use paths below `piston`.
        ["api", "v2", "execute"] | ["api", "v2", "piston", "execute"] => Post(Action::ProxyExecute),
        ["api", "v2", "runtimes"] | ["api", "v2", "piston", "runtimes"] => {
            Get(Action::ProxyRuntimes)
        }
        ["api", "v2", "packages"] | ["api", "v2", "piston", "packages"] => Get(Action::Packages),
        [language, "execute"] => Post(Action::Execute(Dialect::Language((*language).to_owned()))),
        _ => return None,
    })
}

/// The paths of files.
///
/// `files/upload` is for uploads alone, `files/content` ahead of more is for downloads alone, and
/// every other second segment is a name. A last `content` is no name where one stands ahead of it.
fn files(segments: &[&str]) -> Option<Offered> {
    use FilesAction::{Content, Delete, Entry, List, NestedContent, PythonDownload, Upload};
    let get = |action| Offered::Get(Action::Files(action));
    let post = |action| Offered::Post(Action::Files(action));
    let name = |name: &str| name.to_owned();
    Some(match segments {
        ["files"] => Offered::GetOrPost(
            Action::Files(List(FilesForm::Value)),
            Action::Files(Upload(FilesForm::Flat)),
        ),
        ["files", "upload"] | ["upload"] => post(Upload(FilesForm::Value)),
        ["files", file] => Offered::GetOrDelete(
            Action::Files(Entry(name(file))),
            Action::Files(Delete(name(file))),
        ),
        ["files", "content", names @ ..] => get(NestedContent(nested(names))),
        ["files", file, "content"] => get(Content(name(file))),
        ["python", "files"] => get(List(FilesForm::Values)),
        ["python", "uploadFile"] => post(Upload(FilesForm::Values)),
        ["python", "downloadFile"] => get(PythonDownload),
        _ => return None,
    })
}

/// The path behind `files/content`. Clients write `/mnt/data/x` there, whose first slash is lost
/// where doubled slashes are one.
fn nested(names: &[&str]) -> String {
    let below = match names {
        ["mnt", "data", below @ ..] => below,
        all => all,
    };
    let path = match below {
        [path @ .., "content"] if !path.is_empty() => path,
        all => all,
    };
    path.join("/")
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
        assert_eq!(post("/api/v2/execute"), Action::ProxyExecute);
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
    fn each_generation_of_clients_has_its_paths_to_files() {
        use FilesAction::{Content, Delete, Entry, List, NestedContent, PythonDownload, Upload};
        let text = ToOwned::to_owned;
        for (method, path, expected) in [
            (Method::GET, "/files", List(FilesForm::Value)),
            (Method::POST, "/files/", Upload(FilesForm::Flat)),
            (Method::POST, "/files/upload", Upload(FilesForm::Value)),
            (Method::POST, "/upload", Upload(FilesForm::Value)),
            (
                Method::POST,
                "/python/uploadFile",
                Upload(FilesForm::Values),
            ),
            (Method::GET, "/python/files", List(FilesForm::Values)),
            (Method::HEAD, "/python/downloadFile", PythonDownload),
            (Method::GET, "/files/a%20b.txt", Entry(text("a b.txt"))),
            (Method::DELETE, "/files/x/", Delete(text("x"))),
            (Method::GET, "/files/x/content", Content(text("x"))),
            (Method::HEAD, "/files/content/x", NestedContent(text("x"))),
            (
                Method::GET,
                "/files/content/x/content",
                NestedContent(text("x")),
            ),
            (
                Method::GET,
                "/files/content/a/b/x",
                NestedContent(text("a/b/x")),
            ),
            (
                Method::GET,
                "/files/content//mnt/data/x",
                NestedContent(text("x")),
            ),
            (
                Method::GET,
                "/files/content/%2Fmnt%2Fdata%2Fx",
                NestedContent(text("/mnt/data/x")),
            ),
            // A file may be named as a part of these paths.
            (Method::GET, "/files/content", Entry(text("content"))),
            (Method::DELETE, "/files/content", Delete(text("content"))),
            (
                Method::GET,
                "/files/content/content",
                NestedContent(text("content")),
            ),
            (
                Method::GET,
                "/files/content/content/content",
                NestedContent(text("content")),
            ),
            (
                Method::GET,
                "/files/content//mnt/data/content",
                NestedContent(text("content")),
            ),
            (
                Method::GET,
                "/files/upload/content",
                Content(text("upload")),
            ),
            (
                Method::GET,
                "/files/content/upload",
                NestedContent(text("upload")),
            ),
            (Method::DELETE, "/files/%2Fupload", Delete(text("/upload"))),
            (Method::GET, "/files/execute", Entry(text("execute"))),
            (Method::GET, "/files/files", Entry(text("files"))),
        ] {
            let found = route(&method, path).unwrap();
            assert_eq!(found, Action::Files(expected), "{method} {path}");
        }
        for (method, path, expected) in [
            (Method::GET, "/files/upload", "POST"),
            (Method::DELETE, "/files/upload", "POST"),
            (Method::GET, "/upload", "POST"),
            (Method::DELETE, "/files", "GET, HEAD, POST"),
            (Method::PUT, "/files/x", "GET, HEAD, DELETE"),
            (Method::POST, "/files/execute", "GET, HEAD, DELETE"),
            (Method::POST, "/files/x/content", "GET, HEAD"),
            (Method::POST, "/python/files", "GET, HEAD"),
        ] {
            match route(&method, path) {
                Err(ApiError::MethodNotAllowed { allow }) => assert_eq!(allow, expected),
                other => panic!("{method} {path}: {other:?}"),
            }
        }
        let nowhere = route(&Method::GET, "/files/a/b");
        assert!(matches!(nowhere, Err(ApiError::PathNotFound)));
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
            (Method::OPTIONS, "*", "GET, HEAD, POST, DELETE"),
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
    fn what_is_no_target_or_cannot_be_decoded_is_invalid() {
        for target in [
            "/%ff/execute",
            "/%zz/execute",
            "/%4/execute",
            "/größe/execute",
            "/python/execute?größe",
            "*",
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
