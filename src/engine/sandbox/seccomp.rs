//! The system calls that a job may not make, compiled to seccomp filters.
//!
//! This is a deny list: allow lists keep breaking programs and C libraries. Denied calls fail with
//! `EPERM`, which programs expect, with two exceptions. `clone3` fails with `ENOSYS`, because a filter
//! cannot see its flags and C libraries then fall back to `clone`. IPv4 and IPv6 sockets fail with
//! `ENETUNREACH`, so that a program reports that there is no network, as it does in Piston.
//!
//! The filters are one layer of several; see [`confine`](super::confine) for the order in which the
//! layers are applied.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter, sock_filter,
};

/// Why there are no system call filters.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("cannot compile the system call filters: {0}")]
    Compile(#[from] BackendError),
    #[error("cannot install the system call filters: {0}")]
    Install(#[from] seccompiler::Error),
}

/// The compiled filters. Compiling takes longer than starting a small program, so the spawner does it
/// once.
#[derive(Debug, Clone)]
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles the filters for this machine's architecture.
    ///
    /// # Errors
    /// If the architecture is not supported.
    pub(super) fn compile(allow_network: bool) -> Result<Self, SeccompError> {
        let absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        let mut filters = vec![
            program(denied(allow_network)?, libc::EPERM)?,
            without_x32(program(absent, libc::ENOSYS)?),
        ];
        if !allow_network {
            let family = |family: i32| {
                let family = u64::from(family.unsigned_abs());
                rule(vec![when(0, Width::Dword, Is::Eq, family)?])
            };
            let internet = vec![family(libc::AF_INET)?, family(libc::AF_INET6)?];
            let sockets = BTreeMap::from([(libc::SYS_socket, internet)]);
            filters.push(program(sockets, libc::ENETUNREACH)?);
        }
        Ok(Self(filters))
    }

    /// Installs the filters for this process and everything that it will start.
    ///
    /// # Errors
    /// If the kernel does not support filters.
    pub(super) fn apply(&self) -> Result<(), SeccompError> {
        for filter in &self.0 {
            apply_filter(filter)?;
        }
        Ok(())
    }
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )
    .and_then(BpfProgram::try_from)
}

/// Prepends a check that rejects every x32 call. On x86-64 these are the same calls under other
/// numbers, which the filter does not know; other architectures have none. (32-bit calls by
/// `int 0x80` carry another architecture, for which the filter kills the process.)
fn without_x32(filter: BpfProgram) -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const NUMBER_OFFSET: u32 = 0;
    const X32_BIT: u32 = 0x4000_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut checked = vec![
        step(LOAD_WORD, 0, 0, NUMBER_OFFSET),
        step(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_BIT),
        step(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
    ];
    checked.extend(filter);
    checked
}

/// A condition on one argument.
fn when(argument: u8, width: Width, is: Is, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, width, is, value)
}

/// A rule that matches if all conditions do.
fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn denied(allow_network: bool) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    // An empty list of rules denies the call with any arguments.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().map(|number| (*number, vec![])).collect();

    // Only Unix sockets, and IPv4 and IPv6, which a filter of their own denies unless the network is
    // allowed. `socketpair` stays allowed because it creates Unix sockets only.
    let mut families = vec![libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    if allow_network {
        // C libraries list the machine's addresses over netlink when they resolve names.
        families.push(libc::AF_NETLINK);
    }
    let other_family = families
        .into_iter()
        .map(|family| when(0, Width::Dword, Is::Ne, u64::from(family.unsigned_abs())))
        .collect::<Result<_, _>>()?;
    let mut sockets = vec![rule(other_family)?];
    if allow_network {
        // Raw sockets could read other programs' packets.
        let raw = u64::from(libc::SOCK_RAW.unsigned_abs());
        let internet = |family: i32| {
            rule(vec![
                when(0, Width::Dword, Is::Eq, u64::from(family.unsigned_abs()))?,
                when(1, Width::Dword, Is::MaskedEq(0xf), raw)?,
            ])
        };
        sockets.extend([internet(libc::AF_INET)?, internet(libc::AF_INET6)?]);
    }
    rules.insert(libc::SYS_socket, sockets);

    // New namespaces: in a user namespace an ordinary user is root, which opens large parts of the
    // kernel to it.
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ]
    .map(|flag| u64::from(flag.unsigned_abs()));
    let flag_rules = |flags: &[u64]| {
        flags
            .iter()
            .map(|flag| rule(vec![when(0, Width::Qword, Is::MaskedEq(*flag), *flag)?]))
            .collect::<Result<Vec<_>, _>>()
    };
    rules.insert(libc::SYS_clone, flag_rules(&namespaces)?);
    const CLONE_NEWTIME: u64 = 0x80;
    let with_time = [namespaces.as_slice(), &[CLONE_NEWTIME]].concat();
    rules.insert(libc::SYS_unshare, flag_rules(&with_time)?);

    // Both push input into the terminal from which the engine was started.
    const TIOCSTI: u64 = 0x5412;
    const TIOCLINUX: u64 = 0x541C;
    let typing = [TIOCSTI, TIOCLINUX]
        .into_iter()
        .map(|request| rule(vec![when(1, Width::Dword, Is::Eq, request)?]))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, typing);

    // Limits and priorities of other processes. Scheduling calls take thread ids, which a filter
    // cannot tell from process ids, so they have to stay allowed.
    let of_others = |argument| rule(vec![when(argument, Width::Dword, Is::Ne, 0)?]);
    rules.insert(libc::SYS_prlimit64, vec![of_others(0)?]);
    rules.insert(libc::SYS_setpriority, vec![of_others(1)?]);
    rules.insert(libc::SYS_ioprio_set, vec![of_others(1)?]);
    Ok(rules)
}

/// Calls that are denied with any arguments.
const ALWAYS: &[i64] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // Kernel keyrings outlive a job.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // So do System V objects and POSIX queues.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
    // Large and young parts of the kernel.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_memfd_secret,
    // The machine itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];
