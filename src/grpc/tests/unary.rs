//! Unary calls: framing, heads, compression, statuses.

use std::io::Write;

use super::*;
use crate::{error::Code, limits};

#[test]
fn a_call_is_answered_with_headers_message_and_status() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let reply = call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"hello")]).await;
        assert_eq!(reply.http, 200);
        assert_eq!(reply.headers["content-type"], "application/grpc");
        assert_eq!(reply.headers.len(), 1);
        assert_eq!(reply.messages(), ["hello"]);
        assert_eq!(reply.status(), ("0", ""));
        let counters = &server.settings.counters;
        assert_eq!(counters.methods[0].started.get(), 1);
        assert_eq!(server.handled(0, Code::Ok), 1);
        assert_eq!((counters.received_bytes.get(), counters.sent_bytes.get()), (5, 5));
        assert_eq!(counters.calls.get(), 0);
    });
}

#[test]
fn an_answer_that_is_waited_for_comes_when_it_is_there() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut reply = Box::pin(async { call(&client, request("/test.Echo/Late"), &[prefixed(0, b"x")]).await });
        assert!(!is_ready(&mut reply).await);
        until(|| server.service.messages.get() == 1).await;
        server.service.gate.open();
        assert_eq!(reply.await.messages(), ["x"]);
    });
}

#[test]
fn an_error_is_a_response_of_headers_only() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let reply = call(&client, request("/test.Echo/Fail"), &[prefixed(0, b"")]).await;
        assert_eq!(reply.status(), ("14", "etcdserver: no leader"));
        assert!(reply.trailers.is_none() && reply.body.is_empty());
        assert_eq!(reply.http, 200);
        assert_eq!(server.handled(3, Code::Unavailable), 1);
    });
}
