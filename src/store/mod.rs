pub mod codec;
pub mod index;
pub mod tree;
pub mod types;
pub mod usage;
