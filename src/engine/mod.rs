//! The embedded engine: a Piston API that needs no privileges.
