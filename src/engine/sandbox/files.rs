//! Landlock rules: which files a job can read and write, and which processes it can signal.
//!
//! Some kernels do not have Landlock, so nothing that must hold everywhere may depend on it: user ids and
//! file modes, or namespaces, provide that. An ordinary user without namespaces has nothing else.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
};

pub(super) use landlock::RulesetError;

/// The newest ABI that this program knows. The rules that the kernel does not support are left out.
const MAX_ABI: ABI = ABI::V6;

/// Directories with programs, their libraries and their configuration. Files in others, such as
/// `/root`, `/home`, `/run`, `/srv` and `/mnt`, cannot be read.
pub(super) const SYSTEM_DIRS: [&str; 11] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/snap",
];

/// What the kernel says of processes and of the machine.
const KERNEL_DIRS: [&str; 2] = ["/proc", "/sys"];

/// Shared directories that programs expect to be writable.
pub(super) const SHARED_DIRS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The devices of every job. Others are the user's: terminals, cameras, disks.
pub(super) const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

const TERMINALS: [&str; 3] = ["/dev/tty", "/dev/ptmx", "/dev/pts"];

/// What every job may reach, without what is not there or within something else, so that there are as few
/// rules as possible: each job has to make its own.
#[derive(Debug, Default)]
pub(super) struct CommonFiles {
    readable: Vec<&'static str>,
    writable: Vec<&'static str>,
    /// What may be listed besides.
    listed: Vec<&'static str>,
}

impl CommonFiles {
    /// `separates_jobs`: whether other owners or mounts already protect what others have in shared directories,
    /// and their terminals.
    pub(super) fn find(separates_jobs: bool) -> Self {
        // `/bin` is mostly a link to `/usr/bin`, and so on.
        let is_within_usr = |path: &Path| path.starts_with("/usr") && path != Path::new("/usr");
        let find = |paths: Vec<&'static str>| {
            let is_needed =
                |path: &&str| std::fs::canonicalize(path).is_ok_and(|real| !is_within_usr(&real));
            paths.into_iter().filter(is_needed).collect()
        };
        let shared: &[&str] = if separates_jobs { &SHARED_DIRS } else { &[] };
        let terminals: &[&str] = if separates_jobs { &TERMINALS } else { &[] };
        Self {
            readable: find([SYSTEM_DIRS.as_slice(), &KERNEL_DIRS].concat()),
            writable: find([shared, &DEVICES, terminals].concat()),
            // Programs expect to see what is in `/`. Where that is the machine's, names of files are the
            // user's business.
            listed: if separates_jobs {
                vec!["/"]
            } else {
                Vec::new()
            },
        }
    }
}

/// Restricts this process, and everything that it will start, to these files.
///
/// Returns the version of the ABI in use, or `None` if the kernel does not have Landlock.
///
/// # Errors
/// If the kernel refuses rules that it claims to support.
pub(super) fn restrict<'a>(
    common: &CommonFiles,
    readable: &[PathBuf],
    writable: impl Iterator<Item = &'a Path>,
    has_network: bool,
) -> Result<Option<u8>, RulesetError> {
    let read = AccessFs::from_read(MAX_ABI);
    let all = AccessFs::from_all(MAX_ABI);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    if !has_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(MAX_ABI))?;
    }
    let status = ruleset
        .create()
        .and_then(|rules| rules.add_rules(path_beneath_rules(&common.listed, AccessFs::ReadDir)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&common.readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&common.writable, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(writable, all)))
        .and_then(landlock::RulesetCreated::restrict_self)?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => u8::try_from(effective_abi as i32).ok(),
        _ => None,
    })
}

/// What a program loads from the prefix that it is installed to. The file is that of a virtual environment
/// of Python.
const LIBRARIES: [&str; 6] = ["lib", "lib32", "lib64", "libexec", "include", "pyvenv.cfg"];

/// Files of installations that need more, and share their prefix with nothing else: of a JDK and of Go.
const INSTALLATION_MARKS: [&str; 2] = ["lib/modules", "src/runtime/proc.go"];

/// How many links may lead to a program, as in the kernel.
const MAX_LINKS: usize = 40;

/// What the program at `path` needs to read besides [`SYSTEM_DIRS`]: itself, each link on the way to it, and
/// the libraries of the prefixes that it is installed to.
///
/// A prefix, the parent of a `bin`, may be shared with what is nobody's business, as `~/.local` and `~/.cargo`
/// are, so it is opened as a whole only where it is known to hold one installation.
pub(in crate::engine) fn installed_with(path: &Path) -> Vec<PathBuf> {
    let (mut found, program) = links_to(path);
    found.push(program);
    let mut needed = Vec::new();
    for place in found {
        let folder = place.parent().filter(|folder| folder.ends_with("bin"));
        let prefix = folder.and_then(Path::parent).filter(|_| !place.is_dir());
        needed.push(place.clone());
        let Some(prefix) = prefix else {
            continue;
        };
        if INSTALLATION_MARKS
            .iter()
            .any(|mark| prefix.join(mark).is_file())
        {
            needed.push(prefix.to_path_buf());
            continue;
        }
        for name in LIBRARIES {
            let (links, library) = links_to(&prefix.join(name));
            if library.exists() {
                needed.extend(links);
                needed.push(library);
            }
        }
    }
    needed.retain(|path| !is_in_system(path));
    needed.sort();
    needed.dedup();
    needed
}

/// What names are resolved by, where it is outside of [`SYSTEM_DIRS`]: `/etc/resolv.conf` is often a link
/// into `/run`.
pub(super) fn resolver_files() -> Vec<PathBuf> {
    let (mut needed, file) = links_to(Path::new("/etc/resolv.conf"));
    needed.push(file);
    needed.retain(|path| path.exists() && !is_in_system(path));
    needed
}

fn is_in_system(path: &Path) -> bool {
    SYSTEM_DIRS.iter().any(|system| path.starts_with(system))
}

/// The links on the way to a file, and its path without any.
fn links_to(path: &Path) -> (Vec<PathBuf>, PathBuf) {
    let mut links = Vec::new();
    let mut walked = PathBuf::new();
    let mut left: Vec<_> = path
        .components()
        .map(|step| step.as_os_str().to_owned())
        .collect();
    left.reverse();
    while let Some(step) = left.pop() {
        if step == ".." {
            walked.pop();
            continue;
        }
        walked.push(step);
        if links.len() < MAX_LINKS
            && let Ok(target) = std::fs::read_link(&walked)
        {
            links.push(walked.clone());
            walked.pop();
            left.extend(
                target
                    .components()
                    .rev()
                    .map(|step| step.as_os_str().to_owned()),
            );
        }
    }
    (links, walked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn home_with(files: &[&str], links: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let make_parent = |path: &Path| std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for file in files {
            let path = home.path().join(file);
            make_parent(&path);
            std::fs::write(path, "").unwrap();
        }
        for (path, target) in links {
            let path = home.path().join(path);
            make_parent(&path);
            symlink(target, path).unwrap();
        }
        home
    }

    fn needed(home: &tempfile::TempDir, program: &str) -> Vec<String> {
        let needed = installed_with(&home.path().join(program));
        let name = |path: &PathBuf| {
            path.strip_prefix(home.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        needed.iter().map(name).collect()
    }

    #[test]
    fn of_a_prefix_that_is_shared_only_libraries_are_opened() {
        let home = home_with(
            &[
                ".local/bin/python3",
                ".local/bin/other",
                ".local/lib/python3.13/os.py",
                ".local/share/keyrings/login.keyring",
                ".cargo/bin/rustc",
                ".cargo/credentials.toml",
                "bin/mine",
                ".ssh/id_ed25519",
            ],
            &[],
        );
        assert_eq!(
            needed(&home, ".local/bin/python3"),
            [".local/bin/python3", ".local/lib"]
        );
        assert_eq!(needed(&home, ".cargo/bin/rustc"), [".cargo/bin/rustc"]);
        assert_eq!(needed(&home, "bin/mine"), ["bin/mine"]);
    }

    #[test]
    fn an_installation_of_its_own_is_opened_as_a_whole() {
        let home = home_with(
            &["jdk/bin/java", "jdk/lib/modules", "jdk/conf/net.properties"],
            &[],
        );
        assert_eq!(needed(&home, "jdk/bin/java"), ["jdk", "jdk/bin/java"]);
    }

    #[test]
    fn a_virtual_environment_is_opened_without_the_project_around_it() {
        let project = [
            "bin/python",
            "lib/python3.13/site.py",
            "pyvenv.cfg",
            ".env",
            "main.py",
        ];
        let home = home_with(&project, &[]);
        assert_eq!(
            needed(&home, "bin/python"),
            ["bin/python", "lib", "pyvenv.cfg"]
        );
    }

    #[test]
    fn links_lead_to_the_libraries_of_what_they_point_to() {
        let home = home_with(
            &[
                "tools/python-3.13.1/bin/python3.13",
                "tools/python-3.13.1/lib/os.py",
                "tools/secret",
            ],
            &[
                ("bin/python", "python3"),
                ("bin/python3", "../tools/python-3/bin/python3.13"),
                ("tools/python-3", "python-3.13.1"),
            ],
        );
        let expected = [
            "bin/python",
            "bin/python3",
            "tools/python-3",
            "tools/python-3.13.1/bin/python3.13",
            "tools/python-3.13.1/lib",
        ];
        assert_eq!(needed(&home, "bin/python"), expected);
    }

    #[test]
    fn what_is_in_the_system_is_open_anyway() {
        assert!(installed_with(Path::new("/usr/bin/env")).is_empty());
    }
}
