//! Streaming calls: messages across frames, back-pressure both ways, many at once.

use super::*;
use crate::{error::Code, limits};

#[test]
fn messages_go_back_and_forth_while_the_stream_is_open() {
    run(async {
        let server = Server::new();
        let mut client = server.client().await;
        let (response, mut send) = client.send_request(request("/test.Echo/Chat").body(()).unwrap(), false).unwrap();
        send.send_data(prefixed(0, b"one"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), prefixed(0, b"one"));
        send.send_data(prefixed(0, b"two"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), prefixed(0, b"two"));
        assert_eq!(server.settings.counters.calls.get(), 1);
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        until(|| server.settings.counters.calls.get() == 0).await;
        let counted = &server.settings.counters.methods[4];
        assert_eq!((counted.messages_received.get(), counted.messages_sent.get()), (2, 2));
        assert_eq!(server.handled(4, Code::Ok), 1);
    });
}
