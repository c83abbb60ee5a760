//! Names of files and paths of folders, judged once where they come in.

use std::fmt;

use crate::adapter::files::error::FileError;
use crate::data_dir::RESERVED;

/// Longest name in bytes, as on every file system in use.
const MAX_NAME_BYTES: usize = 255;
/// Longest path in bytes; what the code opens by a full path must stay below `PATH_MAX`.
const MAX_PATH_BYTES: usize = 2048;
pub const MAX_DEPTH: usize = 64;
const IS_RESERVED: &str = "is reserved for session-adapter itself";
/// Where clients believe the session's files to be, wherever they are.
const DATA_DIR: &str = "/mnt/data";

/// The name of one file or folder: 1 to 255 bytes of any Unicode, with no slash and no NUL, and
/// neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName(String);

impl FileName {
    /// Judges a name.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => Err("must not be empty"),
            "." | ".." => Err("must not be '.' or '..'"),
            _ if text.len() > MAX_NAME_BYTES => Err("must have at most 255 bytes"),
            _ if text.contains('/') => Err("must not contain '/'"),
            _ if text.contains('\0') => Err("must not contain NUL"),
            _ => Ok(Self(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A folder of the session: names below the data directory, none for the data directory itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderPath(Vec<FileName>);

impl FolderPath {
    /// The names, the outermost first.
    pub fn names(&self) -> &[FileName] {
        &self.0
    }

    fn join(mut self, more: Self) -> Result<Self, FileError> {
        self.0.extend(more.0);
        let bytes: usize = self.0.iter().map(|name| name.0.len() + 1).sum();
        if self.0.len() > MAX_DEPTH {
            return Err(FileError::Path("is nested too deep"));
        }
        if bytes > MAX_PATH_BYTES {
            return Err(FileError::Path("is too long"));
        }
        match self.0.first() {
            Some(first) if first.0 == RESERVED => Err(FileError::Path(IS_RESERVED)),
            _ => Ok(self),
        }
    }
}

impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "/" })?;
            f.write_str(&name.0)?;
        }
        Ok(())
    }
}

/// A file of the session: where it is, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath {
    pub folder: FolderPath,
    /// The name in it.
    pub name: FileName,
}

impl FilePath {
    fn new(folder: FolderPath, name: &str) -> Result<Self, FileError> {
        let name = FileName::parse(name).map_err(FileError::Name)?;
        if folder.0.is_empty() && name.0 == RESERVED {
            return Err(FileError::Name(IS_RESERVED));
        }
        Ok(Self { folder, name })
    }
}

/// Reads what clients write. They may write the data directory ahead of a path, which means
/// nothing: as `/mnt/data`, wherever it really is, or as it really is.
#[derive(Debug, Clone)]
pub struct Names {
    data_dir: String,
}

impl Names {
    /// For a session with this data directory.
    pub fn new(data_dir: &str) -> Self {
        Self {
            data_dir: data_dir.trim_end_matches('/').to_owned(),
        }
    }

    /// A folder: `path` of the query. Empty segments mean nothing.
    ///
    /// # Errors
    /// [`FileError::Path`].
    pub fn folder(&self, text: &str) -> Result<FolderPath, FileError> {
        FolderPath::default().join(folders(self.below(text))?)
    }

    /// A file in a folder, by its bare name.
    ///
    /// # Errors
    /// [`FileError::Name`].
    pub fn file(&self, folder: FolderPath, text: &str) -> Result<FilePath, FileError> {
        FilePath::new(folder, self.below(text))
    }

    /// A file by a name that may have folders ahead of it: `/mnt/data/plots/a.png`.
    ///
    /// # Errors
    /// [`FileError::Name`], [`FileError::Path`].
    pub fn nested_file(&self, folder: FolderPath, text: &str) -> Result<FilePath, FileError> {
        let below = self.below(text);
        let (above, name) = below.rsplit_once('/').unwrap_or(("", below));
        FilePath::new(folder.join(folders(above)?)?, name)
    }

    /// What follows the data directory in an absolute path; any other without leading slashes.
    fn below<'a>(&self, text: &'a str) -> &'a str {
        let Some(bare) = text.strip_prefix('/') else {
            return text;
        };
        let bare = bare.trim_start_matches('/');
        for prefix in [&self.data_dir, DATA_DIR] {
            let prefix = prefix.trim_start_matches('/');
            match bare.strip_prefix(prefix) {
                _ if prefix.is_empty() => {}
                Some("") => return "",
                Some(rest) if rest.starts_with('/') => return rest.trim_start_matches('/'),
                _ => {}
            }
        }
        bare
    }
}

fn folders(text: &str) -> Result<FolderPath, FileError> {
    let names = text.split('/').filter(|name| !name.is_empty());
    let judged = names.map(|name| FileName::parse(name).map_err(FileError::Path));
    Ok(FolderPath(judged.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("/srv/files/")
    }

    fn nested(text: &str) -> String {
        let file = names().nested_file(FolderPath::default(), text).unwrap();
        format!("{}|{}", file.folder, file.name.as_str())
    }

    #[test]
    fn names_are_any_unicode() {
        for name in [
            "a.txt",
            "ü",
            "u\u{308}",
            "🦀 crab.py",
            "100%+1.txt",
            "a\"b'c",
            "a\nb",
            "..\\..\\x",
            "...",
            ".temporary",
            &"ü".repeat(127),
        ] {
            let file = names().file(FolderPath::default(), name).unwrap();
            assert_eq!(file.name.as_str(), name);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "a/",
            "a\0b",
            "/mnt/data/",
            "/mnt/data/..",
            "/mnt/data/../../etc/passwd",
            "/etc/passwd",
            &"x".repeat(256),
            ".session-adapter",
            "/mnt/data/.session-adapter",
        ] {
            let judged = names().file(FolderPath::default(), name);
            assert!(matches!(judged, Err(FileError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn the_data_directory_ahead_of_a_path_means_nothing() {
        assert_eq!(nested("/mnt/data/x"), "|x");
        assert_eq!(nested("//mnt/data//x"), "|x");
        assert_eq!(nested("/srv/files/x"), "|x");
        assert_eq!(nested("/x"), "|x");
        assert_eq!(nested("/mnt/data/a/b/x"), "a/b|x");
        assert_eq!(nested("a//x"), "a|x");
        assert_eq!(nested("/mnt/database/x"), "mnt/database|x");
        // Only an absolute path can mean it.
        assert_eq!(nested("mnt/data/x"), "mnt/data|x");
        for path in ["", "/", "/mnt/data", "/mnt/data/", "/srv/files//"] {
            assert!(names().folder(path).unwrap().names().is_empty(), "{path}");
        }
        assert_eq!(names().folder("/mnt/data/a/b/").unwrap().to_string(), "a/b");
    }

    #[test]
    fn no_path_leads_out() {
        for path in ["..", "a/../..", "/mnt/data/..", "./a", "a/.", "a\0"] {
            assert!(
                matches!(names().folder(path), Err(FileError::Path(_))),
                "{path}"
            );
            let file = names().nested_file(FolderPath::default(), &format!("{path}/x"));
            assert!(matches!(file, Err(FileError::Path(_))), "{path}");
        }
        for name in ["..", "a/..", "a/", "/"] {
            let file = names().nested_file(FolderPath::default(), name);
            assert!(matches!(file, Err(FileError::Name(_))), "{name}");
        }
    }

    #[test]
    fn the_reserved_directory_is_out_of_reach_and_nothing_else() {
        for path in [".session-adapter", "/mnt/data/.session-adapter/x"] {
            assert!(
                matches!(names().folder(path), Err(FileError::Path(_))),
                "{path}"
            );
            let file = names().nested_file(FolderPath::default(), &format!("{path}/file"));
            assert!(matches!(file, Err(FileError::Path(_))), "{path}");
        }
        assert_eq!(nested("a/.session-adapter"), "a|.session-adapter");
        assert_eq!(nested("a/.session-adapter/x"), "a/.session-adapter|x");
        assert_eq!(nested(".session-adapter2"), "|.session-adapter2");
    }

    #[test]
    fn paths_are_bounded() {
        assert!(names().folder(&"a/".repeat(MAX_DEPTH)).is_ok());
        assert!(names().folder(&"a/".repeat(MAX_DEPTH + 1)).is_err());
        let long = format!("{}/", "x".repeat(255));
        assert!(names().folder(&long.repeat(8)).is_ok());
        assert!(names().folder(&long.repeat(9)).is_err());
    }
}
