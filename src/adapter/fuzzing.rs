//! What reads bytes from outside, as functions of bytes alone: for `fuzz/` and the replay of its
//! corpus. Each panics where a promise is broken.

use http::{Method, Uri};

use crate::adapter::azure::dialect::Dialect;
use crate::adapter::azure::{self, FilesQuery, Query};
use crate::adapter::backend::translate::outcome;
use crate::adapter::files::{FilePath, FolderPath, Names};
use crate::adapter::http::multipart::{Multipart, MultipartEvent, boundary};
use crate::adapter::http::route::{Action, FilesAction, route};
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::piston::{ExecuteRequest, ExecuteResponse};

/// A method, a blank and a target: the action, the query, and the name of a file in it.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let (Ok(method), Ok(target)) = (method.parse::<Method>(), target.parse::<Uri>()) else {
        return;
    };
    let query = target.query().unwrap_or_default();
    if let Ok(Query {
        identifier: Some(identifier),
        ..
    }) = Query::parse(query)
    {
        assert_eq!(Identifier::parse(identifier.as_str()), Some(identifier));
    }
    let names = Names::new("/srv/files");
    if let Ok(query) = FilesQuery::parse(query) {
        let _ = names
            .folder(&query.path)
            .map(|folder| stays_inside(&folder));
    }
    let Ok(action) = route(&method, &target) else {
        return;
    };
    assert!(!action.label().is_empty());
    if let Action::Files(
        FilesAction::Entry(name)
        | FilesAction::Delete(name)
        | FilesAction::Content(name)
        | FilesAction::NestedContent(name),
    ) = action
    {
        file_name(&names, &name);
    }
}

fn file_name(names: &Names, name: &str) {
    let bare = names.file(FolderPath::default(), name);
    let nested = names.nested_file(FolderPath::default(), name);
    for FilePath { folder, name } in [bare, nested].into_iter().flatten() {
        stays_inside(&folder);
        let again = names.file(folder.clone(), name.as_str());
        assert_eq!(again.ok(), Some(FilePath { folder, name }));
    }
}

fn stays_inside(folder: &FolderPath) {
    for name in folder.names() {
        let name = name.as_str();
        assert!(!matches!(name, "" | "." | ".."));
        assert!(!name.contains(['/', '\0']));
    }
}

/// The body of an execution; the first byte chooses the dialect.
pub fn execution(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else {
        return;
    };
    let dialect = match first % 5 {
        0 => Dialect::Language("python".to_owned()),
        1 => Dialect::Code,
        2 => Dialect::Execute,
        3 => Dialect::Executions,
        _ => Dialect::Shell,
    };
    match azure::parse(&dialect, Query::default(), None, body) {
        Ok(request) => {
            let execution = request.execution;
            assert!(execution.language.chars().count() <= 64);
            assert!(execution.version.chars().count() <= 64);
            assert!(execution.timeout.is_none_or(|timeout| !timeout.is_zero()));
            assert_ne!(execution.output_streams_max_length, Some(0));
        }
        Err(error) => {
            let status = error.metadata().status;
            assert!(status.is_client_error(), "{status}");
            assert!(!azure::Rendered::error(error.metadata()).body.is_empty());
        }
    }
}

/// An `operation-id`.
pub fn operation_id(bytes: &[u8]) {
    if let Some(id) = OperationId::given(bytes) {
        assert_eq!(id.as_str().as_bytes(), bytes);
        assert!(http::HeaderValue::from_str(id.as_str()).is_ok());
    }
}

/// A content type up to the first line feed and a form behind it: in one piece and byte by byte it
/// is the same.
pub fn form(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = bytes.split_at(split.unwrap_or(0));
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let Some(boundary) = boundary(head) else {
        return;
    };
    // Which of two faults is named depends on which comes to light first.
    let whole = pieces(boundary.as_deref(), body, usize::MAX).ok();
    for step in [1, 3, 64] {
        let cut = pieces(boundary.as_deref(), body, step).ok();
        assert_eq!(whole, cut, "{step}");
    }
}

/// The file name of a part, and its bytes.
pub(super) type Part = (Option<String>, Vec<u8>);

/// The parts of a form that comes in `step` bytes at a time, or the first error.
pub(super) fn pieces(
    boundary: Option<&[u8]>,
    body: &[u8],
    step: usize,
) -> Result<Vec<Part>, &'static str> {
    let mut form = Multipart::new(boundary)?;
    let mut parts = Vec::new();
    for chunk in body.chunks(step) {
        form.push(chunk);
        while let Some(piece) = form.next_event()? {
            match piece {
                MultipartEvent::Part(head) => parts.push((head.filename, Vec::new())),
                MultipartEvent::Data(bytes) => {
                    if let Some((_, data)) = parts.last_mut() {
                        data.extend_from_slice(&bytes);
                    }
                }
                MultipartEvent::PartEnd => {}
                MultipartEvent::End => return Ok(parts),
            }
        }
    }
    Err("no end")
}

/// An engine's response: any is read or refused without a panic, and the streams are cut to their
/// limit.
pub fn answer(bytes: &[u8]) {
    let Ok(response) = serde_json::from_slice::<ExecuteResponse>(bytes) else {
        return;
    };
    let request = ExecuteRequest {
        run_timeout: Some(1000),
        run_memory_limit: Some(64 << 20),
        ..ExecuteRequest::default()
    };
    for max_bytes in [0, 1, 100, usize::MAX] {
        let Ok(cut) = outcome(&request, response.clone(), max_bytes) else {
            continue;
        };
        assert!(cut.stdout().len() <= max_bytes);
        // The notices take no more than three lines.
        assert!(cut.stderr().len() <= max_bytes.max(400));
    }
}
