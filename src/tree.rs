//! Walks, measures and deletes directories that hostile programs may have filled.
//!
//! Everything works on descriptors, so that no link leads out of the directory, and without recursion,
//! so that no depth exhausts the stack. Nothing here knows of sessions or jobs: whoever calls it has
//! opened the right directory.

mod delete;
mod space;
mod temporary;
mod walk;

pub use delete::{Undeleted, delete_contents, delete_own_tree, delete_tree};
pub use space::{Measurement, Space, SpaceCounter, free_bytes, in_folder};
pub use temporary::{delete_abandoned, random_name, temp_dir, temporary_folder};
pub use walk::{MAX_DEPTH, Next, OPEN_DIR, walk};
