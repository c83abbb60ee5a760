//! The system calls that a job may not make, as one seccomp filter.
//!
//! This is a deny list: allow lists keep breaking programs and C libraries. Denied calls fail with
//! `EPERM`, which programs expect, with three exceptions. `clone3` fails with `ENOSYS`, because a filter
//! cannot see its flags and C libraries then fall back to `clone`. So do `io_setup`, which kernels may
//! lack, and calls that are newer than this list. IPv4 and IPv6 sockets fail with `ENETUNREACH`, so that a
//! program reports that there is no network, as it does in Piston.
//!
//! The filter searches the call's number as a binary tree. At each installation the kernel runs it for
//! every number, to learn which calls it need not ask about, and every job installs it anew: with a list
//! of comparisons that takes several times as long.
//!
//! The filter is one layer of several; see [`confine`](super::confine) for the order in which the
//! layers are applied.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, apply_filter, sock_filter};

/// Why there is no system call filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("there is no system call filter for {}", std::env::consts::ARCH)]
    Architecture,
    #[error("cannot install the system call filter: {0}")]
    Install(#[from] seccompiler::Error),
}

/// The compiled filter.
#[derive(Debug, Clone)]
pub(super) struct Filters(BpfProgram);

impl Filters {
    /// Compiles the filter for this machine's architecture. `has_network` tells whether jobs have a network,
    /// be it the machine's or a loopback interface of their own; `protects_attributes` whether they may not
    /// change extended attributes and flags of files, because they see files of others that they own.
    ///
    /// # Errors
    /// If the architecture is not supported.
    pub(super) fn compile(
        has_network: bool,
        protects_attributes: bool,
    ) -> Result<Self, SeccompError> {
        // `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of the kernel's `linux/audit.h`.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => 0xC000_003E,
            "aarch64" => 0xC000_00B7,
            _ => return Err(SeccompError::Architecture),
        };
        // Numbers mean something only together with the architecture: on x86-64, `int 0x80` makes
        // 32-bit calls, which have others.
        let by_number = load(
            NUMBER,
            search(&ranges(denied(has_network, protects_attributes))),
        );
        let kill = end(libc::SECCOMP_RET_KILL_PROCESS);
        let filter = load(ARCHITECTURE, branch(EQUAL, architecture, by_number, kill));
        Ok(Self(filter))
    }

    /// Installs the filter for this process and everything that it will start.
    ///
    /// # Errors
    /// If the kernel does not support filters.
    pub(super) fn apply(&self) -> Result<(), SeccompError> {
        Ok(apply_filter(&self.0)?)
    }
}

/// Instructions that end the program, whichever way it takes through them.
type Code = BpfProgram;

/// Places in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Operations of the kernel's `linux/bpf_common.h`, put together from their parts.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

fn end(action: u32) -> Code {
    vec![instruction(RETURN, action)]
}

fn allow() -> Code {
    end(libc::SECCOMP_RET_ALLOW)
}

fn fail(errno: i32) -> Code {
    end(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

fn instruction(code: u16, k: u32) -> sock_filter {
    let (jt, jf) = (0, 0);
    sock_filter { code, jt, jf, k }
}

/// Goes on with the word at this place in `struct seccomp_data`.
fn load(place: u32, mut rest: Code) -> Code {
    rest.insert(0, instruction(LOAD, place));
    rest
}

/// Goes on with the low word of an argument: the kernel, too, ignores the high word of an `int`. All
/// architectures here are little-endian.
fn argument(index: u32, rest: Code) -> Code {
    load(ARGUMENTS + 8 * index, rest)
}

/// Goes on with these bits of the word.
fn masked(bits: u32, mut rest: Code) -> Code {
    rest.insert(0, instruction(AND, bits));
    rest
}

fn equal(value: i32, then: Code, otherwise: Code) -> Code {
    branch(EQUAL, value.cast_unsigned(), then, otherwise)
}

fn any_bit(bits: u32, then: Code, otherwise: Code) -> Code {
    branch(ANY_BIT, bits, then, otherwise)
}

fn branch(comparison: u16, value: u32, then: Code, otherwise: Code) -> Code {
    let mut code = vec![instruction(comparison, value)];
    let skipped = otherwise.len();
    if let Ok(near) = u8::try_from(skipped) {
        code[0].jt = near;
    } else {
        // A comparison cannot jump that far itself.
        code[0].jf = 1;
        code.push(instruction(JUMP, skipped as u32));
    }
    code.extend(otherwise);
    code.extend(then);
    code
}

/// Searches the range of the call's number. There is at least one range.
fn search(ranges: &[(u32, Code)]) -> Code {
    match ranges {
        [(_, code)] => code.clone(),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            branch(AT_LEAST, upper[0].0, search(upper), search(lower))
        }
    }
}

/// What to do from which number on, in order from 0.
fn ranges(denied: BTreeMap<u32, Code>) -> Vec<(u32, Code)> {
    let mut ranges = BTreeMap::from([(0, allow())]);
    ranges.extend(denied.keys().map(|number| (number + 1, allow())));
    ranges.extend(denied);
    ranges.insert(NEWEST + 1, fail(libc::ENOSYS));
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    ranges
}

/// `file_setattr`, the newest call of Linux 6.18 by its `scripts/syscall.tbl`; from 424 on all
/// architectures have the same numbers. Newer calls may do what the filter is to deny, so they do not
/// exist for jobs until they have been judged. The x32 calls of x86-64, which are the same calls under
/// other numbers, are higher still.
const NEWEST: u32 = 469;

/// What to do for calls that are not allowed with any arguments.
fn denied(has_network: bool, protects_attributes: bool) -> BTreeMap<u32, Code> {
    let refuse = || fail(libc::EPERM);
    // New namespaces: in a user namespace an ordinary user is root, which opens large parts of the
    // kernel to it.
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET)
        .cast_unsigned();
    // A flag of `unshare` only: `clone` has a part of the exit signal there.
    const CLONE_NEWTIME: u32 = 0x80;
    // Both push input into the terminal from which the engine was started.
    const TIOCSTI: i32 = 0x5412;
    const TIOCLINUX: i32 = 0x541C;
    // What `chattr` does, by `linux/fs.h`.
    const FS_IOC_SETFLAGS: i32 = 0x4008_6602;
    const FS_IOC_FSSETXATTR: i32 = 0x401c_5820;
    let flags = match protects_attributes {
        true => equal(
            FS_IOC_SETFLAGS,
            refuse(),
            equal(FS_IOC_FSSETXATTR, refuse(), allow()),
        ),
        false => allow(),
    };
    let attributes = if protects_attributes { ATTRIBUTES } else { &[] };
    let controls = equal(TIOCSTI, refuse(), equal(TIOCLINUX, refuse(), flags));
    // Limits and priorities of other processes. Scheduling calls take thread ids, which a filter
    // cannot tell from process ids, so they have to stay allowed.
    let own_only = |index| argument(index, equal(0, allow(), refuse()));
    let others = [
        (libc::SYS_clone3, fail(libc::ENOSYS)),
        (libc::SYS_io_setup, fail(libc::ENOSYS)),
        (libc::SYS_socket, socket(has_network)),
        (
            libc::SYS_clone,
            argument(0, any_bit(namespaces, refuse(), allow())),
        ),
        (
            libc::SYS_unshare,
            argument(0, any_bit(namespaces | CLONE_NEWTIME, refuse(), allow())),
        ),
        (libc::SYS_ioctl, argument(1, controls)),
        (libc::SYS_fcntl, pipe_size()),
        (libc::SYS_setsockopt, socket_buffer_size()),
        (libc::SYS_prlimit64, own_only(0)),
        (libc::SYS_setpriority, own_only(1)),
        (libc::SYS_ioprio_set, own_only(1)),
    ];
    ALWAYS
        .iter()
        .chain(attributes)
        .map(|number| (*number, refuse()))
        .chain(others)
        .map(|(number, code)| (number as u32, code))
        .collect()
}

/// Only Unix sockets, and if there is a network IPv4, IPv6 and the netlink of addresses and routes.
/// `socketpair` stays allowed because it creates Unix sockets only.
fn socket(has_network: bool) -> Code {
    let refuse = || fail(libc::EPERM);
    let internet = || {
        if has_network {
            // Raw sockets could read other programs' packets.
            let raw = equal(libc::SOCK_RAW, refuse(), allow());
            argument(1, masked(SOCKET_TYPES, raw))
        } else {
            fail(libc::ENETUNREACH)
        }
    };
    let netlink = if has_network {
        // C libraries list the machine's addresses when they resolve names. Other protocols lead to
        // large parts of the kernel: firewalls, IPsec, sockets of others.
        argument(2, equal(libc::NETLINK_ROUTE, allow(), refuse()))
    } else {
        refuse()
    };
    let others = equal(libc::AF_NETLINK, netlink, refuse());
    let others = equal(libc::AF_INET6, internet(), others);
    let others = equal(libc::AF_INET, internet(), others);
    argument(0, equal(libc::AF_UNIX, allow(), others))
}

/// No pipe may hold more than the usual 64 KiB, which a job's memory is charged for each.
fn pipe_size() -> Code {
    let larger = branch(AT_LEAST, 65_537, fail(libc::EPERM), allow());
    argument(1, equal(libc::F_SETPIPE_SZ, argument(2, larger), allow()))
}

/// Asking for another size of a socket's buffer changes nothing, so that none holds more than a job's memory is
/// charged for. It is no error: the kernel, too, takes the size for a hint.
fn socket_buffer_size() -> Code {
    let ignored = || fail(0);
    let receive = equal(libc::SO_RCVBUF, ignored(), allow());
    let size = argument(2, equal(libc::SO_SNDBUF, ignored(), receive));
    argument(1, equal(libc::SOL_SOCKET, size, allow()))
}

/// The kernel's `SOCK_TYPE_MASK`: other bits of a socket's type are flags.
const SOCKET_TYPES: u32 = 0xf;

/// Since Linux 6.15.
const SYS_OPEN_TREE_ATTR: i64 = 467;

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
    SYS_OPEN_TREE_ATTR,
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
    // Pins pages in pipes, where no process is charged for them.
    libc::SYS_vmsplice,
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
    libc::SYS_quotactl_fd,
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

/// Calls that change extended attributes and flags of files.
const ATTRIBUTES: &[i64] = &[
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
];

/// Not in `libc` yet: the first two are since Linux 6.13, the third since 6.17.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_FILE_SETATTR: i64 = 469;

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const ENETUNREACH: u32 = libc::SECCOMP_RET_ERRNO | libc::ENETUNREACH as u32;

    /// Runs a program as the kernel does.
    fn interpret(code: &Code, data: &[u8; 64]) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let step = &code[at];
            at += 1;
            let mut jump_if = |is: bool| at += usize::from(if is { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    let place = step.k as usize;
                    word = u32::from_ne_bytes(data[place..place + 4].try_into().unwrap());
                }
                AND => word &= step.k,
                JUMP => at += step.k as usize,
                EQUAL => jump_if(word == step.k),
                AT_LEAST => jump_if(word >= step.k),
                ANY_BIT => jump_if(word & step.k != 0),
                RETURN => return step.k,
                other => panic!("no such operation: {other:#x}"),
            }
        }
    }

    fn architecture() -> u32 {
        let is_x86 = cfg!(target_arch = "x86_64");
        if is_x86 { 0xC000_003E } else { 0xC000_00B7 }
    }

    fn run(filters: &Filters, architecture: u32, number: u32, arguments: &[u64]) -> u32 {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        for (place, argument) in data[16..].chunks_mut(8).zip(arguments) {
            place.copy_from_slice(&argument.to_ne_bytes());
        }
        interpret(&filters.0, &data)
    }

    /// What a job gets from a call, without the network and with it.
    fn both(number: i64, arguments: &[u64]) -> [u32; 2] {
        [false, true].map(|network| {
            let filters = Filters::compile(network, false).unwrap();
            run(&filters, architecture(), number as u32, arguments)
        })
    }

    fn signed(value: i32) -> u64 {
        i64::from(value).cast_unsigned()
    }

    #[test]
    fn calls_are_judged_by_their_number_alone_or_by_their_arguments() {
        let judged = denied(true, true);
        let filters = Filters::compile(true, true).unwrap();
        for number in 0..=NEWEST {
            let expected = match judged.get(&number).map(Vec::as_slice) {
                None => ALLOW,
                Some([only]) => only.k,
                Some(_) => continue,
            };
            let action = run(&filters, architecture(), number, &[]);
            assert_eq!(action, expected, "{number}");
        }
        assert_eq!(both(libc::SYS_read, &[]), [ALLOW; 2]);
        assert_eq!(both(libc::SYS_execve, &[]), [ALLOW; 2]);
        assert_eq!(both(libc::SYS_ptrace, &[]), [EPERM; 2]);
        assert_eq!(both(libc::SYS_clone3, &[]), [ENOSYS; 2]);
        for number in ALWAYS {
            assert_eq!(both(*number, &[]), [EPERM; 2], "{number}");
        }
    }

    #[test]
    fn calls_of_other_architectures_kill() {
        let filters = Filters::compile(false, false).unwrap();
        const I386: u32 = 0x4000_0003;
        const ARM: u32 = 0x4000_0028;
        for architecture in [0, I386, ARM, architecture() ^ 1] {
            let action = run(&filters, architecture, libc::SYS_read as u32, &[]);
            assert_eq!(action, KILL, "{architecture:#x}");
        }
    }

    #[test]
    fn calls_that_are_newer_than_this_program_do_not_exist() {
        assert_eq!(both(469, &[]), [ALLOW; 2]);
        for number in [470, 471, 511, 600, 1 << 20] {
            assert_eq!(both(number, &[]), [ENOSYS; 2], "{number}");
        }
        // The x32 calls of x86-64.
        for number in [0x4000_0000, 0x4000_0000 | libc::SYS_getpid, 0x4000_0200] {
            assert_eq!(both(number, &[]), [ENOSYS; 2], "{number:#x}");
        }
        assert_eq!(both(-1, &[]), [ENOSYS; 2]);
    }

    #[test]
    fn what_creates_contexts_mounts_and_quotas_is_refused() {
        assert_eq!(both(libc::SYS_io_setup, &[]), [ENOSYS; 2]);
        assert_eq!(both(443, &[]), [EPERM; 2]);
        assert_eq!(both(467, &[]), [EPERM; 2]);
    }

    #[test]
    fn namespaces_are_refused_among_other_flags() {
        let threads = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_THREAD;
        assert_eq!(both(libc::SYS_clone, &[signed(threads)]), [ALLOW; 2]);
        assert_eq!(both(libc::SYS_clone, &[signed(libc::SIGCHLD)]), [ALLOW; 2]);
        assert_eq!(
            both(libc::SYS_unshare, &[signed(libc::CLONE_FS)]),
            [ALLOW; 2]
        );
        for flag in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
        ] {
            for flags in [flag, flag | threads | libc::SIGCHLD] {
                // The kernel looks at the low word only.
                for high in [0, 1 << 32] {
                    let flags = signed(flags) | high;
                    assert_eq!(both(libc::SYS_clone, &[flags]), [EPERM; 2], "{flags:#x}");
                    assert_eq!(both(libc::SYS_unshare, &[flags]), [EPERM; 2], "{flags:#x}");
                }
            }
        }
        assert_eq!(both(libc::SYS_unshare, &[0x80]), [EPERM; 2]);
        assert_eq!(both(libc::SYS_clone, &[0x80]), [ALLOW; 2]);
    }

    #[test]
    fn buffers_of_pipes_and_sockets_stay_as_large_as_they_are() {
        let set_size = |size| both(libc::SYS_fcntl, &[9, signed(libc::F_SETPIPE_SZ), size]);
        assert_eq!(set_size(65_536), [ALLOW; 2]);
        assert_eq!(set_size(65_537), [EPERM; 2]);
        assert_eq!(both(libc::SYS_fcntl, &[9, 1, 1 << 20]), [ALLOW; 2]);
        const IGNORED: u32 = libc::SECCOMP_RET_ERRNO;
        let set = |level, name| both(libc::SYS_setsockopt, &[9, signed(level), signed(name)]);
        assert_eq!(set(libc::SOL_SOCKET, libc::SO_SNDBUF), [IGNORED; 2]);
        assert_eq!(set(libc::SOL_SOCKET, libc::SO_RCVBUF), [IGNORED; 2]);
        assert_eq!(set(libc::SOL_SOCKET, libc::SO_REUSEADDR), [ALLOW; 2]);
        assert_eq!(set(libc::IPPROTO_TCP, libc::SO_SNDBUF), [ALLOW; 2]);
    }

    #[test]
    fn attributes_are_protected_where_jobs_see_files_of_others_that_they_own() {
        for (is_protected, action) in [(false, ALLOW), (true, EPERM)] {
            let filters = Filters::compile(false, is_protected).unwrap();
            let judge = |number: i64, arguments: &[u64]| {
                run(&filters, architecture(), number as u32, arguments)
            };
            for number in ATTRIBUTES {
                assert_eq!(judge(*number, &[]), action, "{number}");
            }
            assert_eq!(judge(libc::SYS_ioctl, &[9, 0x4008_6602]), action);
            assert_eq!(judge(libc::SYS_ioctl, &[9, 0x401c_5820]), action);
            assert_eq!(judge(libc::SYS_getxattr, &[]), ALLOW);
        }
    }

    #[test]
    fn nothing_types_into_a_terminal() {
        for request in [0x5412, 0x541C] {
            assert_eq!(both(libc::SYS_ioctl, &[0, request]), [EPERM; 2]);
            assert_eq!(both(libc::SYS_ioctl, &[0, request | 1 << 32]), [EPERM; 2]);
            assert_eq!(both(libc::SYS_ioctl, &[request, 0x5413]), [ALLOW; 2]);
        }
    }

    #[test]
    fn limits_and_priorities_can_only_be_ones_own() {
        for (number, index) in [
            (libc::SYS_prlimit64, 0),
            (libc::SYS_setpriority, 1),
            (libc::SYS_ioprio_set, 1),
        ] {
            let mut arguments = [1; 3];
            for (process, action) in [
                (0, ALLOW),
                (1 << 32, ALLOW),
                (7, EPERM),
                (signed(-1), EPERM),
            ] {
                arguments[index] = process;
                assert_eq!(
                    both(number, &arguments),
                    [action; 2],
                    "{number} {process:#x}"
                );
            }
        }
    }

    #[test]
    fn sockets_are_judged_by_family_and_type() {
        const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = |family: i32, kind: i32, protocol: i32| {
            both(
                libc::SYS_socket,
                &[signed(family), signed(kind), signed(protocol)],
            )
        };
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW] {
            for kind in [kind, kind | FLAGS] {
                assert_eq!(socket(libc::AF_UNIX, kind, 0), [ALLOW; 2]);
                let with_network = if kind & 0xf == libc::SOCK_RAW {
                    EPERM
                } else {
                    ALLOW
                };
                for family in [libc::AF_INET, libc::AF_INET6] {
                    assert_eq!(socket(family, kind, 0), [ENETUNREACH, with_network]);
                }
                for family in [
                    0,
                    libc::AF_PACKET,
                    libc::AF_ALG,
                    libc::AF_VSOCK,
                    -1,
                    1 << 30,
                ] {
                    assert_eq!(socket(family, kind, 0), [EPERM; 2], "{family}");
                }
                assert_eq!(socket(libc::AF_NETLINK, kind, 0), [EPERM, ALLOW]);
                for protocol in [1, 4, 9, 15, 16, -1] {
                    let netlink = socket(libc::AF_NETLINK, kind, protocol);
                    assert_eq!(netlink, [EPERM; 2], "{protocol}");
                }
            }
        }
        // The kernel looks at the low word only.
        let internet = signed(libc::AF_INET) | 1 << 32;
        assert_eq!(both(libc::SYS_socket, &[internet, 1]), [ENETUNREACH, ALLOW]);
    }

    #[test]
    fn long_jumps_arrive() {
        let ranges: Vec<_> = (0..1000).map(|from| (from * 10, end(from))).collect();
        let code = load(NUMBER, search(&ranges));
        for number in 0_u32..10_000 {
            let mut data = [0; 64];
            data[..4].copy_from_slice(&number.to_ne_bytes());
            assert_eq!(interpret(&code, &data), number / 10);
        }
    }
}
