//! Watch.

use std::rc::Rc;

use crate::{
    error::{self, Status},
    grpc::{
        Call,
        stream::{Replies, Requests},
    },
    shard::Shard,
};

/// Serves a watch stream to its end.
pub async fn serve(_: Rc<Shard>, _: Call, _: Requests, _: Replies) -> Result<(), Status> {
    Err(error::method_unimplemented("Watch"))
}
