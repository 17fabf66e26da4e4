//! A watch stream: requests out, responses in.

use bytes::Bytes;
use urd::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};

use crate::{Client, Error, Receiver, Sender};

/// One stream; any number of watches on it.
pub struct Watcher {
    pub sender: Sender<WatchRequest>,
    pub receiver: Receiver<WatchResponse>,
}

impl Client {
    pub async fn watcher(&self) -> Result<Watcher, Error> {
        let (sender, receiver) = self.stream::<WatchRequest>().await?;
        Ok(Watcher { sender, receiver })
    }

    /// A stream with one watch on `[key, end)` from a revision (0: from now on), already created.
    pub async fn watch(
        &self,
        key: impl Into<Bytes>,
        end: impl Into<Bytes>,
        start_revision: i64,
    ) -> Result<Watcher, Error> {
        let mut watcher = self.watcher().await?;
        watcher.create(WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            start_revision,
            ..Default::default()
        })?;
        let created = watcher.next().await?;
        if !created.created || created.canceled {
            return Err(Error::transport(format!("the watch was not created: {created:?}")));
        }
        Ok(watcher)
    }
}

impl Watcher {
    pub fn create(&mut self, request: WatchCreateRequest) -> Result<(), Error> {
        self.request(RequestUnion::CreateRequest(request))
    }

    pub fn cancel(&mut self, watch_id: i64) -> Result<(), Error> {
        self.request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
    }

    pub fn progress(&mut self) -> Result<(), Error> {
        self.request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
    }

    fn request(&mut self, union: RequestUnion) -> Result<(), Error> {
        self.sender.send(&WatchRequest { request_union: Some(union) })
    }

    /// The next response, whatever it is.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        self.receiver.expect().await
    }
}
