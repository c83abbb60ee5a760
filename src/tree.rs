//! Folders that programs have filled: gone through, measured and deleted by descriptors, so that no
//! link leads anywhere, and without recursion.

mod delete;
mod space;
mod temporary;
mod walk;

pub use delete::{Undeleted, delete_contents, delete_tree};
pub use space::{Space, free_bytes, in_folder};
pub use temporary::{random_name, temp_dir, temporary_folder};
pub use walk::{MAX_DEPTH, Next, OPEN_DIR, walk};
