pub mod body;
pub mod client;
pub mod remote;
