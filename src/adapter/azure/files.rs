//! The files of a session, as each generation of clients reads them.
//!
//! An entry carries both shapes that Azure has had: `properties` of 2024-02 and 2024-08, and the
//! flat one of 2024-10 and later (`SessionResourceFile` of the OpenAPI documents).

use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::adapter::azure::dialect::FilesForm;
use crate::adapter::azure::error::ApiError;
use crate::adapter::azure::version::api_version;
use crate::adapter::azure::{Rendered, query};
use crate::adapter::files::{Entry, EntryKind};
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::timestamp::Timestamp;

/// Versions that know of no folders: their lists have every file, by its path.
const WITHOUT_FOLDERS: [&str; 2] = ["2024-02-02-preview", "2024-08-02-preview"];
/// From this version on, every entry says in which folder it is.
const DIRECTORY_SINCE: &str = "2025-10-02-preview";

/// The parts of a query that mean something for files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesQuery {
    /// `identifier`: the session.
    pub identifier: Option<Identifier>,
    /// `path`: the folder.
    pub path: String,
    /// `recursive`: whether the folders in it count.
    pub recursive: bool,
    /// `filename` of `python/downloadFile`.
    pub filename: Option<String>,
    version: Option<&'static str>,
}

impl FilesQuery {
    /// Reads a query string. Names that are not known are ignored; the last of a repeated one
    /// counts.
    ///
    /// # Errors
    /// [`ApiError::ApiVersion`], [`ApiError::Identifier`], [`ApiError::Property`],
    /// [`ApiError::TargetInvalid`] for what is not UTF-8 once decoded.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            match decode(name)?.as_str() {
                "identifier" if value.is_empty() => {}
                "identifier" => parsed.identifier = Some(query::identifier(&value)?),
                "api-version" => parsed.version = api_version(&value)?,
                "path" => parsed.path = value,
                "recursive" => parsed.recursive = yes_or_no(&value)?,
                "filename" => parsed.filename = Some(value),
                _ => {}
            }
        }
        parsed.recursive |= !parsed.has_folders();
        Ok(parsed)
    }

    fn has_folders(&self) -> bool {
        self.version.is_none_or(|v| !WITHOUT_FOLDERS.contains(&v))
    }

    fn has_directory(&self) -> bool {
        self.recursive
            || self
                .version
                .is_none_or(|version| version >= DIRECTORY_SINCE)
    }
}

fn decode(text: &str) -> Result<String, ApiError> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    Ok(decoded.map_err(|_| ApiError::TargetInvalid)?.into_owned())
}

fn yes_or_no(value: &str) -> Result<bool, ApiError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err(ApiError::Property {
            field: "recursive",
            problem: "must be true or false".to_owned(),
        }),
    }
}

pub fn render_list(form: FilesForm, query: &FilesQuery, entries: &[Entry]) -> Rendered {
    // An entry of May 2024 cannot say that it is a folder.
    let has_folders = form != FilesForm::Values && query.has_folders();
    let listed: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::File || has_folders)
        .collect();
    body(form, query.has_directory(), &listed)
}

/// Renders what was uploaded.
pub fn render_uploaded(form: FilesForm, entries: &[Entry]) -> Rendered {
    body(form, false, &entries.iter().collect::<Vec<_>>())
}

/// Renders one file or folder.
pub fn render_entry(entry: &Entry) -> Rendered {
    Rendered::ok(&Ids::default().entry(entry, false))
}

fn body(form: FilesForm, with_directory: bool, entries: &[&Entry]) -> Rendered {
    let mut ids = Ids::default();
    match form {
        FilesForm::Value => Rendered::ok(&FileValue {
            id: ids.next(),
            value: ids.entries(entries, with_directory),
        }),
        FilesForm::Values => Rendered::ok(&Values {
            id: ids.next(),
            values: entries.iter().map(|entry| ids.old(entry)).collect(),
        }),
        FilesForm::Flat => Rendered::ok(&Flat {
            first: entries.first().map(|entry| ids.entry(entry, false)),
            value: ids.entries(entries, with_directory),
        }),
    }
}

#[derive(Serialize)]
struct FileValue<'a> {
    #[serde(rename = "$id")]
    id: String,
    value: Vec<FlatEntry<'a>>,
}

#[derive(Serialize)]
struct Values {
    #[serde(rename = "$id")]
    id: String,
    #[serde(rename = "$values")]
    values: Vec<OldEntry>,
}

#[derive(Serialize)]
struct Flat<'a> {
    #[serde(flatten)]
    first: Option<FlatEntry<'a>>,
    value: Vec<FlatEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlatEntry<'a> {
    #[serde(rename = "$id")]
    id: String,
    properties: FileProperties,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a str>,
    r#type: &'static str,
    content_type: &'static str,
    size_in_bytes: u64,
    last_modified_at: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileProperties {
    #[serde(rename = "$id")]
    id: String,
    /// The path from the folder that was asked about: clients put `/mnt/data/` ahead of it.
    filename: String,
    size: u64,
    last_modified_time: Timestamp,
}

/// Of May 2024.
#[derive(Serialize)]
struct OldEntry {
    #[serde(rename = "$id")]
    id: String,
    filename: String,
    size: u64,
    last_modified_time: Timestamp,
}

/// The running numbers of the objects in a response.
#[derive(Default)]
struct Ids(usize);

impl Ids {
    fn next(&mut self) -> String {
        self.0 += 1;
        self.0.to_string()
    }

    fn entry<'a>(&mut self, entry: &'a Entry, with_directory: bool) -> FlatEntry<'a> {
        FlatEntry {
            id: self.next(),
            properties: FileProperties {
                id: self.next(),
                filename: entry.path(),
                size: entry.size,
                last_modified_time: entry.modified,
            },
            name: &entry.name,
            directory: with_directory.then_some(&entry.folder),
            r#type: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Folder => "directory",
            },
            content_type: content_type(entry),
            size_in_bytes: entry.size,
            last_modified_at: entry.modified,
        }
    }

    fn entries<'a>(&mut self, entries: &[&'a Entry], with_directory: bool) -> Vec<FlatEntry<'a>> {
        let render = |entry: &&'a Entry| self.entry(entry, with_directory);
        entries.iter().map(render).collect()
    }

    fn old(&mut self, entry: &Entry) -> OldEntry {
        OldEntry {
            id: self.next(),
            filename: entry.path(),
            size: entry.size,
            last_modified_time: entry.modified,
        }
    }
}

/// By the name alone. Azure's examples have `application/yaml`, which is registered since RFC 9512.
fn content_type(entry: &Entry) -> &'static str {
    const UNKNOWN: &str = "application/octet-stream";
    let extension = entry.name.rsplit_once('.').map_or("", |(_, end)| end);
    match (entry.kind, extension.to_ascii_lowercase().as_str()) {
        (EntryKind::Folder, _) => UNKNOWN,
        (EntryKind::File, "yaml" | "yml") => "application/yaml",
        (EntryKind::File, extension) => mime_guess::from_ext(extension)
            .first_raw()
            .unwrap_or(UNKNOWN),
    }
}
