//! Kernels: Python processes that live as long as their sessions.
//!
//! A request to `POST /api/v2/execute` that names a kernel runs as a *cell* in that kernel's process
//! instead of a process of its own. Cells of one kernel run one after the other in the order in which
//! they came. A kernel starts with its first cell; one is started ahead, while memory allows, so that a new
//! session's first cell need not wait. There are at most [`KernelSettings::max_kernels`](super::config::KernelSettings::max_kernels): the one that has
//! been idle for longest ends for a new one.
//!
//! Whenever a kernel ends its variables are lost, and the response to the cell says so, or to the next
//! one where the kernel ended between two cells. The number of a kernel's `generation` counts its starts.
//!
//! [`process`] is one kernel's process, [`socket`] the socket to it, [`table`] keeps the books, and [`cells`]
//! decides which cell runs where. A kernel is the session's own code: nothing that it sends is trusted beyond its session.

pub(super) mod cells;
pub(super) mod process;
pub(super) mod socket;
pub(super) mod table;
