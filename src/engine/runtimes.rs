//! The table of runtimes, and the choice of an installed one for a request.
//!
//! It reads the table and compares versions; running programs is [`discovery`](super::discovery)'s
//! part.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nodejs_semver::{Range, Version};
use serde::Deserialize;

use crate::piston::Runtime;

const BUILT_IN: &str = include_str!("runtimes.toml");

/// Why a table of runtimes cannot be used.
#[allow(missing_docs)] // Of fields: the messages name them.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is not TOML in the expected format.
    #[error("the table of runtimes cannot be read: {0}")]
    Form(#[from] toml::de::Error),
    /// An entry has no program or no run command.
    #[error("the runtime {language:?} must have at least one program and a run command")]
    Incomplete { language: String },
    /// An entry's `requires`, or that of a standard, is not a semver range.
    #[error("the runtime {language:?} requires {range:?}, which is not a semver range")]
    Range { language: String, range: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    runtime: Vec<TableEntry>,
}

/// A language and how to run it. `runtimes.toml` documents the fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableEntry {
    pub(super) language: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) runtime: Option<String>,
    pub(super) programs: Vec<String>,
    #[serde(default = "version_flag")]
    pub(super) version: Vec<String>,
    #[serde(default)]
    pub(super) requires: Option<String>,
    #[serde(default)]
    pub(super) extensions: Vec<String>,
    #[serde(default)]
    pub(super) rename: bool,
    #[serde(default)]
    pub(super) compile: Option<Vec<String>>,
    pub(super) run: Vec<String>,
    #[serde(default)]
    pub(super) warm: Vec<String>,
    #[serde(default)]
    pub(super) alone: bool,
    #[serde(default)]
    pub(super) rereads: Option<String>,
    #[serde(default)]
    pub(super) interrupts: bool,
    #[serde(default)]
    pub(super) preloads: bool,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) standard: String,
    #[serde(default)]
    standards: BTreeMap<String, String>,
    /// Whether the operator added it, rather than this program.
    #[serde(skip)]
    pub(super) is_added: bool,
}

fn version_flag() -> Vec<String> {
    vec!["--version".to_owned()]
}

/// The entries of `extra` followed by the built-in ones. An entry of `extra` replaces the built-in
/// entries of the same language. Unknown placeholders in it are logged.
///
/// # Errors
/// If `extra` is not a valid table.
pub(super) fn load(extra: Option<&str>) -> Result<Vec<TableEntry>, TableError> {
    let mut entries = match extra {
        Some(text) => read(text)?,
        None => Vec::new(),
    };
    for entry in &mut entries {
        entry.is_added = true;
        warn_of_unknown_placeholders(entry);
    }
    let own: Vec<String> = entries.iter().map(|entry| entry.language.clone()).collect();
    entries.extend(
        read(BUILT_IN)?
            .into_iter()
            .filter(|entry| !own.contains(&entry.language)),
    );
    Ok(entries)
}

fn read(text: &str) -> Result<Vec<TableEntry>, TableError> {
    let table: Table = toml::from_str(text)?;
    for entry in &table.runtime {
        let language = entry.language.clone();
        if entry.programs.is_empty() || entry.run.is_empty() || language.is_empty() {
            return Err(TableError::Incomplete { language });
        }
        let mut ranges = entry.requires.iter().chain(entry.standards.values());
        if let Some(range) = ranges.find(|range| Range::parse(range).is_err()) {
            let range = range.clone();
            return Err(TableError::Range { language, range });
        }
    }
    Ok(table.runtime)
}

fn warn_of_unknown_placeholders(entry: &TableEntry) {
    let commands = entry.compile.iter().flatten().chain(&entry.run);
    let known = [
        "{program}",
        "{file}",
        "{files}",
        "{standard}",
        "{memory_mib}",
    ];
    let in_commands = unknown_placeholders(commands, &known);
    let in_aliases = unknown_placeholders(&entry.aliases, &["{major}", "{minor}"]);
    for (placeholder, known) in in_commands.into_iter().chain(in_aliases) {
        let language = &entry.language;
        tracing::warn!(
            language,
            placeholder,
            known,
            "unknown placeholder in the table of runtimes"
        );
    }
}

/// The placeholders in `words` that are not among `known`, each with the known ones as text.
fn unknown_placeholders<'a>(
    words: impl IntoIterator<Item = &'a String>,
    known: &[&str],
) -> BTreeSet<(&'a str, String)> {
    let in_word = |word: &'a String| {
        word.match_indices('{').filter_map(move |(start, _)| {
            let end = start + word[start..].find('}')? + 1;
            let name = &word[start + 1..end - 1];
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
            // Shells have `${name}`.
            let is_shell = word[..start].ends_with('$');
            (is_name && !is_shell).then_some(&word[start..end])
        })
    };
    let unknown = words.into_iter().flat_map(in_word);
    unknown
        .filter(|placeholder| !known.contains(placeholder))
        .map(|placeholder| (placeholder, known.join(", ")))
        .collect()
}

/// A runtime that was found on this machine.
#[derive(Debug, Clone)]
pub(super) struct Installed {
    pub(super) entry: Arc<TableEntry>,
    pub(super) program: PathBuf,
    pub(super) version: Version,
    /// Directories that the program reads, besides those of the system.
    pub(super) readable: Vec<PathBuf>,
}

impl Installed {
    /// Its entry in `GET /api/v2/runtimes`.
    pub(super) fn to_wire(&self) -> Runtime {
        Runtime {
            language: self.entry.language.clone(),
            version: self.version.to_string(),
            aliases: self.aliases(),
            runtime: self.entry.runtime.clone(),
        }
    }

    /// The runtime once for each standard that this version supports, with the standard as the language.
    pub(super) fn standard_variants(&self) -> Vec<Self> {
        let has =
            |range: &String| Range::parse(range).is_ok_and(|range| self.version.satisfies(&range));
        let standards = self.entry.standards.iter().filter(|(_, range)| has(range));
        standards
            .map(|(standard, _)| Self {
                entry: Arc::new(TableEntry {
                    language: standard.clone(),
                    aliases: Vec::new(),
                    standard: standard.clone(),
                    standards: BTreeMap::new(),
                    ..TableEntry::clone(&self.entry)
                }),
                ..self.clone()
            })
            .collect()
    }

    fn aliases(&self) -> Vec<String> {
        let major = self.version.major().to_string();
        let minor = self.version.minor().to_string();
        self.entry
            .aliases
            .iter()
            .map(|alias| alias.replace("{major}", &major).replace("{minor}", &minor))
            .collect()
    }

    fn is_called(&self, name: &str) -> bool {
        self.entry.language == name || self.aliases().iter().any(|alias| alias == name)
    }
}

/// The runtime that Piston would choose: the one of this name or alias with the highest version in the
/// range. Names are case-sensitive. An invalid range matches nothing.
pub(super) fn choose<'a>(
    installed: &'a [Installed],
    language: &str,
    range: &str,
) -> Option<&'a Installed> {
    let range = Range::parse(range).ok()?;
    installed
        .iter()
        .filter(|one| one.is_called(language) && one.version.satisfies(&range))
        // `max_by` takes the last of equal ones; reversed, that is the first in the table.
        .rev()
        .max_by(|a, b| a.version.cmp(&b.version))
}

/// The executable files that an entry's programs may refer to, best first. Programs in the data directory
/// are left out: a job could replace them and so choose which files later jobs can read.
pub(super) fn candidates(entry: &TableEntry, path: &[PathBuf], data_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for program in &entry.programs {
        if program.contains('/') {
            found.push(PathBuf::from(program));
            continue;
        }
        found.extend(path.iter().map(|folder| folder.join(program)));
    }
    found.retain(|program| is_executable(program) && !is_within(program, data_dir));
    found
}

/// Whether a file, or what it is a link to, is within a folder.
fn is_within(file: &Path, folder: &Path) -> bool {
    let Ok(folder) = std::fs::canonicalize(folder) else {
        return false;
    };
    let place = file
        .parent()
        .and_then(|parent| std::fs::canonicalize(parent).ok());
    let places = [place, std::fs::canonicalize(file).ok()];
    places
        .iter()
        .flatten()
        .any(|place| place.starts_with(&folder))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The version in a program's output: the first number with a point in it, or else the first number.
/// Missing parts are 0.
pub(super) fn version_in(text: &str) -> Option<Version> {
    let numbers = || {
        text.split(|c: char| !c.is_ascii_digit() && c != '.')
            .map(|part| part.trim_matches('.'))
            .filter(|part| !part.is_empty())
    };
    let number = numbers()
        .find(|part| part.contains('.'))
        .or_else(|| numbers().next())?;
    let mut parts = number.split('.').map(|part| part.parse::<u64>().ok());
    let mut part = || parts.next().unwrap_or(Some(0));
    Some(Version::from((part()?, part()?, part()?)))
}

/// Puts the memory limit in place of `{memory_mib}`, and a percentage of it in place of `{memory_mib:75}`.
pub(super) fn with_memory(word: &str, bytes: u64) -> String {
    const NAME: &str = "{memory_mib";
    let mebibytes = bytes >> 20;
    let mut filled = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once(NAME) {
        let (share, end) = after.split_once('}').unwrap_or((after, ""));
        let percent = match share.strip_prefix(':') {
            Some(percent) => percent.parse().unwrap_or(100),
            None => 100,
        };
        filled.push_str(before);
        filled.push_str(&(mebibytes * percent / 100).max(1).to_string());
        rest = end;
    }
    filled + rest
}

/// Whether an entry accepts this version.
pub(super) fn accepts(entry: &TableEntry, version: &Version) -> bool {
    match &entry.requires {
        None => true,
        Some(range) => Range::parse(range).is_ok_and(|range| version.satisfies(&range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(version: &str) -> Installed {
        let entry = load(None)
            .unwrap()
            .into_iter()
            .find(|e| e.language == "python")
            .unwrap();
        Installed {
            entry: Arc::new(entry),
            program: PathBuf::from("/usr/bin/python3"),
            version: version_in(version).unwrap(),
            readable: Vec::new(),
        }
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, version) in [
            ("Python 3.11.2\n", "3.11.2"),
            (
                "GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)",
                "5.2.15",
            ),
            ("v20.20.2\n", "20.20.2"),
            ("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime", "17.0.15"),
            ("openjdk 21 2023-09-19\n", "21.0.0"),
            ("12.2.0\n", "12.2.0"),
            ("go version go1.22 linux/amd64", "1.22.0"),
            ("ruby 3.1.2p20 (2022-04-12)", "3.1.2"),
            ("Lua 5.4.4  Copyright (C) 1994-2022", "5.4.4"),
        ] {
            assert_eq!(version_in(text).unwrap().to_string(), version);
        }
        assert!(version_in("no version").is_none());
    }

    #[test]
    fn a_program_that_jobs_could_replace_is_no_candidate() {
        let temp = tempfile::tempdir().unwrap();
        let (bin, data) = (temp.path().join("bin"), temp.path().join("data"));
        for folder in [&bin, &data] {
            std::fs::create_dir(folder).unwrap();
        }
        let make_program = |path: &Path| {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        make_program(&bin.join("python3"));
        make_program(&data.join("python3"));
        std::os::unix::fs::symlink(data.join("python3"), bin.join("python")).unwrap();
        let entry = &python("3.11.2").entry;
        let found = candidates(entry, &[data.clone(), bin.clone()], &data);
        assert_eq!(found, [bin.join("python3")]);
    }

    #[test]
    fn the_highest_version_in_the_range_is_chosen() {
        let installed = [python("3.9.1"), python("3.11.2"), python("3.8.0")];
        let version = |language, range| {
            choose(&installed, language, range).map(|one| one.version.to_string())
        };
        assert_eq!(version("py", "*").as_deref(), Some("3.11.2"));
        assert_eq!(version("python3.9", "*").as_deref(), Some("3.9.1"));
        assert_eq!(version("python", "<3.9").as_deref(), Some("3.8.0"));
        assert_eq!(version("python", ">=3.8 <4").as_deref(), Some("3.11.2"));
        assert_eq!(version("python", "3.x").as_deref(), Some("3.11.2"));
        for (language, range) in [("Python", "*"), ("python", "latest"), ("python", "^3.12.0")] {
            assert_eq!(version(language, range), None);
        }
    }

    #[test]
    fn placeholders_are_found_in_words() {
        let words = [
            "{fiel}",
            "-o{file}",
            "${HOME}",
            "{}",
            "{ a }",
            "{1}",
            "{x",
            "a{y}{file}",
        ];
        let words = words.map(str::to_owned);
        let unknown = unknown_placeholders(&words, &["{file}"]);
        let unknown: Vec<_> = unknown.iter().map(|(found, _)| *found).collect();
        assert_eq!(unknown, ["{fiel}", "{y}"]);
    }

    #[test]
    fn a_users_entry_hides_the_built_in_one() {
        let extra = "[[runtime]]\nlanguage = \"python\"\nprograms = [\"/opt/py\"]\nrun = [\"{program}\", \"{file}\"]\n";
        let table = load(Some(extra)).unwrap();
        let pythons: Vec<_> = table.iter().filter(|e| e.language == "python").collect();
        assert_eq!(pythons.len(), 1);
        assert_eq!(pythons[0].programs, ["/opt/py"]);
        assert!(load(Some("[[runtime]]\nlanguage = \"x\"\n")).is_err());
        let nothing = "[[runtime]]\nlanguage = \"x\"\nprograms = []\nrun = []\n";
        assert!(matches!(
            load(Some(nothing)),
            Err(TableError::Incomplete { .. })
        ));
    }
}
