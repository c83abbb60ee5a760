//! The signals of Linux: number, name as Node and so Piston write it, description as bash with
//! glibc prints it for a program that it ended.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
/// A signal that can end a program on Linux.
pub struct Signal {
    /// Its number (signal(7), x86-64 and arm64).
    pub number: i32,
    /// The name with its prefix, such as `SIGKILL`.
    pub name: &'static str,
    /// What a shell says of a program that it ended.
    pub description: &'static str,
}

const fn signal(number: i32, name: &'static str, description: &'static str) -> Signal {
    Signal {
        number,
        name,
        description,
    }
}

/// Every signal but the real-time ones, which have no name in Piston.
pub const SIGNALS: [Signal; 31] = [
    signal(1, "SIGHUP", "Hangup"),
    signal(2, "SIGINT", "Interrupt"),
    signal(3, "SIGQUIT", "Quit"),
    signal(4, "SIGILL", "Illegal instruction"),
    signal(5, "SIGTRAP", "Trace/breakpoint trap"),
    signal(6, "SIGABRT", "Aborted"),
    signal(7, "SIGBUS", "Bus error"),
    signal(8, "SIGFPE", "Floating point exception"),
    signal(9, "SIGKILL", "Killed"),
    signal(10, "SIGUSR1", "User defined signal 1"),
    signal(11, "SIGSEGV", "Segmentation fault"),
    signal(12, "SIGUSR2", "User defined signal 2"),
    signal(13, "SIGPIPE", "Broken pipe"),
    signal(14, "SIGALRM", "Alarm clock"),
    signal(15, "SIGTERM", "Terminated"),
    signal(16, "SIGSTKFLT", "Stack fault"),
    signal(17, "SIGCHLD", "Child exited"),
    signal(18, "SIGCONT", "Continued"),
    signal(19, "SIGSTOP", "Stopped (signal)"),
    signal(20, "SIGTSTP", "Stopped"),
    signal(21, "SIGTTIN", "Stopped (tty input)"),
    signal(22, "SIGTTOU", "Stopped (tty output)"),
    signal(23, "SIGURG", "Urgent I/O condition"),
    signal(24, "SIGXCPU", "CPU time limit exceeded"),
    signal(25, "SIGXFSZ", "File size limit exceeded"),
    signal(26, "SIGVTALRM", "Virtual timer expired"),
    signal(27, "SIGPROF", "Profiling timer expired"),
    signal(28, "SIGWINCH", "Window changed"),
    signal(29, "SIGIO", "I/O possible"),
    signal(30, "SIGPWR", "Power failure"),
    signal(31, "SIGSYS", "Bad system call"),
];

impl Signal {
    /// The signal of a number.
    pub fn of_number(number: i32) -> Option<Self> {
        SIGNALS.into_iter().find(|signal| signal.number == number)
    }

    /// The signal of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        SIGNALS.into_iter().find(|signal| signal.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_platform() {
        for (number, name) in [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGSEGV, "SIGSEGV"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGXFSZ, "SIGXFSZ"),
            (libc::SIGSYS, "SIGSYS"),
        ] {
            assert_eq!(Signal::of_number(number).map(|s| s.name), Some(name));
            assert_eq!(Signal::of_name(name).map(|s| s.number), Some(number));
        }
        assert_eq!(Signal::of_number(0), None);
        assert_eq!(Signal::of_number(64), None);
        assert_eq!(Signal::of_name("SIGNOPE"), None);
    }
}
