pub mod request;
pub mod wire;
