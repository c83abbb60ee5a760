//! Namespaces for a job: a file system of its own with the little that it needs, its own processes,
//! loopback network and shared memory.
//!
//! Root makes them directly. An ordinary user makes a user namespace first, in which it may make the
//! others; many containers, and some distributions, forbid that. In it, the job's user is still the
//! engine's, but its rights end at what is mounted here.
//!
//! The first process of these namespaces, see [`init`](super::init), has every right in them while it builds
//! the file system, and then gives them up with the rest, see [`confine`](super::confine). When it ends, the
//! kernel ends all other processes of the job and unmounts everything.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{DumpableBehavior, chdir, pivot_root, set_dumpable_behavior};
use rustix::system::sethostname;

use super::files::{DEVICES, SYSTEM_DIRS};
use super::sys::{self, Fork, SingleThreaded};
use crate::tree::OPEN_DIR;

/// The parent of the jobs' directories, as jobs see it.
pub(super) const WORK_DIR: &str = "/jobs";
/// Where a job sees private directories instead of those that all users share.
pub(super) const PRIVATE_TEMP_DIRS: [&str; 2] = ["/tmp", "/var/tmp"];
/// Where a job sees the data directory, besides the path that the operator gave it.
pub(super) const DATA_DIR_ALIAS: &str = "/mnt/data";

/// The first Linux release in which processes are counted for each user namespace, and a tree of mounts
/// can be made read-only at once.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// A name that every machine resolves.
const HOST_NAME: &[u8] = b"localhost";

/// Links in `/dev`: target and path.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Smallest, initial and largest buffer of a TCP socket for each direction, in bytes. The largest is that of
/// any other socket; the kernel's own is 6 MiB.
const TCP_BUFFERS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 212992"),
    ("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 212992"),
];

/// Why a job has no namespaces.
#[derive(Debug, thiserror::Error)]
pub(super) enum NamespaceError {
    #[error("cannot set up a user namespace: {0}")]
    User(#[source] io::Error),
    #[error("cannot mount {}: {source}", .path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot change the root directory: {0}")]
    Root(#[source] io::Error),
    #[error("cannot set the host name: {0}")]
    HostName(#[source] io::Error),
    #[error("cannot set up the loopback interface: {0}")]
    Loopback(#[source] io::Error),
}

fn mount_failed(path: impl AsRef<Path>) -> impl FnOnce(Errno) -> NamespaceError {
    let path = path.as_ref().to_owned();
    |error| NamespaceError::Mount {
        path,
        source: error.into(),
    }
}

/// How the jobs of a spawner are put into namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// The user namespace of an ordinary user, who needs one to make the others.
    pub(super) user: Option<UserNamespace>,
    /// Whether jobs have a network of their own, which is a loopback interface.
    pub(super) has_network: bool,
    /// Directories of the system, and links in their places.
    system_dirs: Vec<SystemDir>,
}

#[derive(Debug)]
enum SystemDir {
    Folder(&'static str),
    Link { path: &'static str, target: PathBuf },
}

/// What one job sees.
pub(super) struct View<'a> {
    /// Any folder of the job's. The new root is mounted there before it becomes the root.
    pub(super) mountpoint: &'a Path,
    /// Folders and where they are seen. The job may write there.
    pub(super) writable: &'a [(&'a Path, &'a Path)],
    /// Files, folders and links that are seen where they are.
    pub(super) readable: &'a [PathBuf],
    /// Limits of `/dev/shm`: bytes and files.
    pub(super) shared_memory: (u64, u64),
}

impl Namespaces {
    /// Namespaces for this process's jobs.
    ///
    /// # Errors
    /// The reason why this kernel does not support them.
    pub(super) fn find(allow_network: bool) -> Result<Self, String> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        if kernel_version(&release).is_none_or(|version| version < OLDEST_KERNEL) {
            let (major, minor) = OLDEST_KERNEL;
            return Err(format!("Linux {release} is older than {major}.{minor}"));
        }
        let system_dirs =
            SYSTEM_DIRS
                .into_iter()
                .filter_map(|path| match std::fs::read_link(path) {
                    Ok(target) => Some(SystemDir::Link { path, target }),
                    Err(_) => Path::new(path).is_dir().then_some(SystemDir::Folder(path)),
                });
        let uid = rustix::process::geteuid();
        Ok(Self {
            user: (!uid.is_root()).then(|| UserNamespace {
                uid: uid.as_raw(),
                gid: rustix::process::getegid().as_raw(),
            }),
            has_network: !allow_network,
            system_dirs: system_dirs.collect(),
        })
    }

    /// Forks this process as the first one of new namespaces, which [`Self::enter`] sets up.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub(super) fn fork(&self, proof: SingleThreaded) -> io::Result<Fork> {
        let mut flags = libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if self.user.is_some() {
            flags |= libc::CLONE_NEWUSER;
        }
        if self.has_network {
            flags |= libc::CLONE_NEWNET;
        }
        sys::fork_into(proof, flags)
    }

    /// Sets up the namespaces of this process. Paths mean something else from then on.
    ///
    /// # Errors
    /// If the kernel refuses a step. The process must exit then.
    pub(super) fn enter(&self, view: &View<'_>) -> Result<(), NamespaceError> {
        if let Some(user) = self.user {
            user.enter().map_err(NamespaceError::User)?;
        }
        // Else what is mounted here would be mounted outside, too.
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .map_err(mount_failed("/"))?;
        let root = self.build(view)?;
        change_root(&root).map_err(|error| NamespaceError::Root(error.into()))?;
        sethostname(HOST_NAME).map_err(|error| NamespaceError::HostName(error.into()))?;
        if self.has_network {
            let kind = SocketType::DGRAM;
            socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)
                .and_then(|socket| sys::bring_loopback_up(socket.as_fd()))
                .and_then(|()| {
                    TCP_BUFFERS
                        .iter()
                        .try_for_each(|(path, sizes)| std::fs::write(path, sizes))
                })
                .map_err(NamespaceError::Loopback)?;
        }
        Ok(())
    }

    /// Mounts the new root and everything in it.
    fn build(&self, view: &View<'_>) -> Result<OwnedFd, NamespaceError> {
        // Opened before the new root hides it.
        let mut binds = Vec::new();
        let mut links = Vec::new();
        for (from, to) in view.writable {
            binds.push((*to, clone_mount(from, no_devices())?));
        }
        for path in view.readable {
            match std::fs::read_link(path) {
                Ok(target) => links.push((path, target)),
                Err(_) if path.exists() => binds.push((path, clone_mount(path, read_only())?)),
                // It has been uninstalled, and starting it is going to fail.
                Err(_) => {}
            }
        }
        // What is within something else comes after it.
        binds.sort_by_key(|(to, _)| to.components().count());

        let root = Path::new("/");
        let options = [("mode", "0755"), ("size", "1m"), ("nr_inodes", "4096")];
        let new = new_mount("tmpfs", &options, no_devices()).map_err(mount_failed(root))?;
        attach(&new, CWD, view.mountpoint).map_err(mount_failed(root))?;
        self.mount_system(&new)?;
        mount_kernel_files(&new, view.shared_memory)?;
        for (to, tree) in &binds {
            attach_below(tree, &new, to).map_err(mount_failed(to))?;
        }
        for (path, target) in links {
            make_link(&new, path, &target).map_err(mount_failed(path))?;
        }
        restrict(&new, MountAttrFlags::MOUNT_ATTR_RDONLY, false).map_err(mount_failed(root))?;
        Ok(new)
    }

    fn mount_system(&self, root: &OwnedFd) -> Result<(), NamespaceError> {
        for entry in &self.system_dirs {
            match entry {
                SystemDir::Folder(path) => {
                    let tree = clone_mount(path, read_only())?;
                    make_and_attach(&tree, root, path).map_err(mount_failed(path))?;
                }
                SystemDir::Link { path, target } => {
                    symlinkat(target, root, relative_to_root(path)).map_err(mount_failed(path))?;
                }
            }
        }
        Ok(())
    }
}

/// A namespace in which an ordinary user has every right over what is its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct UserNamespace {
    uid: u32,
    gid: u32,
}

impl UserNamespace {
    /// Forks this process into the namespace, which [`Self::enter`] sets up.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(super) fn fork(self, proof: SingleThreaded) -> io::Result<Fork> {
        sys::fork_into(proof, libc::CLONE_NEWUSER)
    }

    /// Maps the user and group to themselves. An ordinary user may map no others.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(super) fn enter(self) -> io::Result<()> {
        let Self { uid, gid } = self;
        // While a process is not dumpable, root owns its files in `/proc`. Other jobs do not see this process.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(())
    }
}

/// What the kernel itself provides: devices, processes, shared memory, the number of processors.
fn mount_kernel_files(root: &OwnedFd, (bytes, files): (u64, u64)) -> Result<(), NamespaceError> {
    for folder in ["/dev", "/sys", "/sys/devices"] {
        mkdirat(root, relative_to_root(folder), FOLDER_MODE).map_err(mount_failed(folder))?;
    }
    for device in DEVICES {
        // A read-only mount does not stop writes to the device, only changes to its mode and times.
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let tree = clone_mount(device, attributes)?;
        mknodat(
            root,
            relative_to_root(device),
            FileType::RegularFile,
            Mode::RUSR,
            0,
        )
        .and_then(|()| attach(&tree, root, relative_to_root(device)))
        .map_err(mount_failed(device))?;
    }
    for (target, path) in DEVICE_LINKS {
        symlinkat(target, root, relative_to_root(path)).map_err(mount_failed(path))?;
    }
    let tree = clone_mount(PROCESSORS, read_only())?;
    make_and_attach(&tree, root, PROCESSORS).map_err(mount_failed(PROCESSORS))?;

    let mount = |kind: &str, path: &str, options: &[(&str, &str)], attributes| {
        new_mount(kind, options, attributes)
            .and_then(|mount| make_and_attach(&mount, root, path))
            .map_err(mount_failed(path))
    };
    mount("proc", "/proc", &[], no_devices())?;
    let options = [("ptmxmode", "0666"), ("mode", "0620")];
    mount(
        "devpts",
        "/dev/pts",
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?;
    let (bytes, files) = (bytes.to_string(), files.to_string());
    let options = [("mode", "1777"), ("size", &bytes), ("nr_inodes", &files)];
    mount("tmpfs", "/dev/shm", &options, no_devices())
}

/// Where C libraries and runtimes read how many processors there are.
const PROCESSORS: &str = "/sys/devices/system";

const FOLDER_MODE: Mode = Mode::RWXU
    .union(Mode::RGRP)
    .union(Mode::XGRP)
    .union(Mode::ROTH)
    .union(Mode::XOTH);

fn no_devices() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV
}

fn read_only() -> MountAttrFlags {
    no_devices() | MountAttrFlags::MOUNT_ATTR_RDONLY
}

/// The path, from the root on.
fn relative_to_root(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// A copy of what is mounted at a path, and below it, with these attributes. It is not mounted yet.
fn clone_mount(
    path: impl AsRef<Path>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, NamespaceError> {
    let path = path.as_ref();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
        .and_then(|tree| restrict(&tree, attributes, true).map(|()| tree))
        .map_err(mount_failed(path))
}

fn restrict(mount: &OwnedFd, attributes: MountAttrFlags, is_recursive: bool) -> Result<(), Errno> {
    sys::restrict_mount(mount.as_fd(), attributes.bits().into(), is_recursive)
}

/// A new file system. It is not mounted yet.
fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Mounts at a path below `root` that no job can have changed: links on it are followed.
fn attach(mount: &OwnedFd, root: impl AsFd, path: impl rustix::path::Arg) -> Result<(), Errno> {
    move_mount(
        mount,
        "",
        root,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn make_and_attach(mount: &OwnedFd, root: &OwnedFd, path: &str) -> Result<(), Errno> {
    mkdirat(root, relative_to_root(path), FOLDER_MODE)?;
    attach(mount, root, relative_to_root(path))
}

/// Mounts at a path below `root`, which may lead through other mounts. Makes missing folders. Follows no
/// links: an earlier stage of the job may have made them.
fn attach_below(tree: &OwnedFd, root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let (parent, name) = parent_and_name(root, path)?;
    let at = if FileType::from_raw_mode(fstat(tree)?.st_mode).is_dir() {
        make_folder(&parent, name)?
    } else {
        unless_there(mknodat(&parent, name, FileType::RegularFile, Mode::RUSR, 0))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&parent, name, flags, Mode::empty())?
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", at, "", flags)
}

fn make_link(root: &OwnedFd, path: &Path, target: &Path) -> Result<(), Errno> {
    let (parent, name) = parent_and_name(root, path)?;
    unless_there(symlinkat(target, &parent, name))
}

fn parent_and_name<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let mut folder = openat(root, ".", OPEN_DIR, Mode::empty())?;
    for step in path.parent().into_iter().flat_map(Path::components) {
        if let std::path::Component::Normal(step) = step {
            folder = make_folder(&folder, step)?;
        }
    }
    Ok((folder, name))
}

fn make_folder(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    unless_there(mkdirat(parent, name, FOLDER_MODE))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Accepts that something could not be made because it is there already, in a folder that has been mounted.
fn unless_there(made: Result<(), Errno>) -> Result<(), Errno> {
    match made {
        Err(Errno::EXIST | Errno::ROFS) => Ok(()),
        made => made,
    }
}

/// Makes the new root the root of this process, and forgets the old one.
fn change_root(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    pivot_root(".", ".")?;
    // The old root is now mounted over the new one.
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_have_a_version() {
        assert_eq!(kernel_version("6.8.0-45-generic"), Some((6, 8)));
        assert_eq!(kernel_version("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(kernel_version("6.18+"), Some((6, 18)));
        assert_eq!(kernel_version("6"), None);
    }
}
