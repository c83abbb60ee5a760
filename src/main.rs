//! The command line of session-adapter.

use session_adapter::engine::sandbox::{SPAWNER_ARGUMENT, spawner_main};

fn main() {
    // Ahead of everything else: the spawner must have one thread.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == SPAWNER_ARGUMENT)
    {
        spawner_main();
    }
}
