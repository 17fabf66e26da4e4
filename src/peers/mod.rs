pub mod body;
pub mod client;
