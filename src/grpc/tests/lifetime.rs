//! How calls and connections end: deadlines, cancels, drain.

use std::time::Duration;

use super::*;
use crate::error::Code;

#[test]
fn a_passed_deadline_ends_a_unary_call_and_its_handler() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let never = request("/test.Echo/Never").header("grpc-timeout", "30m");
        let reply = call(&client, never, &[prefixed(0, b"x")]).await;
        assert_eq!(reply.status(), ("4", "context deadline exceeded"));
        assert_eq!(server.service.dropped.get(), 1);
        assert_eq!(server.handled(2, Code::DeadlineExceeded), 1);
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}

#[test]
fn a_deadline_holds_while_the_message_is_still_coming() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut client = client.ready().await.unwrap();
        let late = request("/test.Echo/Echo").header("grpc-timeout", "30m").body(()).unwrap();
        let (response, mut send) = client.send_request(late, false).unwrap();
        send.send_data(Bytes::from_static(&[0, 0, 0]), false).unwrap();
        let reply = take(response.await.unwrap()).await.unwrap();
        assert_eq!(reply.status(), ("4", "context deadline exceeded"));
    });
}

#[test]
fn a_passed_deadline_ends_a_stream() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let late = request("/test.Echo/Wait").header("grpc-timeout", "30m");
        let reply = call(&client, late, &[prefixed(0, b"x")]).await;
        assert_eq!(reply.status(), ("4", "context deadline exceeded"));
        assert_eq!(server.service.dropped.get(), 1);
        assert_eq!(server.handled(7, Code::DeadlineExceeded), 1);
    });
}

#[test]
fn a_passed_deadline_does_not_wait_behind_what_is_not_read() {
    run(async {
        let server = Server::new();
        let mut client = server.client().await;
        let late = request("/test.Echo/Pour").header("grpc-timeout", "500m").body(()).unwrap();
        let (response, _send) = client.send_request(late, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = loop {
            if let Err(error) = body.data().await.unwrap() {
                break error;
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        assert_eq!(server.service.dropped.get(), 1);
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}

#[test]
fn a_caller_that_gives_up_takes_its_handler_along() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        for (path, method) in [("/test.Echo/Never", 2), ("/test.Echo/Wait", 7), ("/test.Echo/Hold", 5)] {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut send) = client.send_request(request(path).body(()).unwrap(), false).unwrap();
            send.send_data(prefixed(0, b"x"), false).unwrap();
            until(|| server.settings.counters.methods[method].started.get() == 1).await;
            let before = server.service.dropped.get();
            send.send_reset(h2::Reason::CANCEL);
            until(|| server.service.dropped.get() == before + 1).await;
            drop(response);
            until(|| server.handled(method, Code::Canceled) == 1).await;
        }
        assert_eq!(server.settings.counters.requests_active.get(), 0);
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
    });
}

#[test]
fn a_lost_connection_takes_all_its_handlers_along() {
    run(async {
        let server = Server::new();
        let pipe = server.pipe(64 * 1024);
        let (client, connection) = h2::client::handshake(pipe).await.unwrap();
        let stop = Drain::new();
        let mut waiter = stop.waiter();
        spawn(async move {
            let mut connection = connection;
            poll_fn(|context| match std::pin::Pin::new(&mut connection).poll(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => waiter.poll(context),
            })
            .await;
        });
        let mut calls = Vec::new();
        for path in ["/test.Echo/Never", "/test.Echo/Wait", "/test.Echo/Chat"] {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut send) = client.send_request(request(path).body(()).unwrap(), false).unwrap();
            send.send_data(prefixed(0, b"x"), false).unwrap();
            calls.push((response, send));
        }
        until(|| server.settings.counters.requests_active.get() == 3 && server.service.messages.get() == 2).await;
        stop.fire();
        until(|| server.service.dropped.get() == 3 && server.ended.get() == 1).await;
        assert_eq!(server.settings.counters.requests_active.get(), 0);
        assert_eq!(server.settings.counters.connections.get(), 0);
    });
}

#[test]
fn a_drain_lets_unary_calls_finish_and_tells_streams() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut late = Box::pin(async { call(&client, request("/test.Echo/Late"), &[prefixed(0, b"x")]).await });
        let mut wait = Box::pin(async { call(&client, request("/test.Echo/Wait"), &[prefixed(0, b"x")]).await });
        assert!(!is_ready(&mut late).await && !is_ready(&mut wait).await);
        until(|| server.settings.counters.requests_active.get() == 2 && server.service.messages.get() == 1).await;
        server.drain.fire();
        assert_eq!(wait.await.status(), ("14", "etcdserver: server stopped"));
        settle().await;
        assert_eq!(server.ended.get(), 0);
        assert!(try_call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"no")]).await.is_err());
        server.service.gate.open();
        assert_eq!(late.await.messages(), ["x"]);
        until(|| server.ended.get() == 1).await;
    });
}

#[test]
fn a_drain_ends_an_idle_connection() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"x")]).await;
        server.drain.fire();
        until(|| server.ended.get() == 1).await;
    });
}

#[test]
fn a_drain_does_not_wait_for_a_client_that_has_not_said_a_word() {
    run(async {
        let server = Server::new();
        let _pipe = server.pipe(1024);
        settle().await;
        assert_eq!(server.settings.counters.connections.get(), 1);
        server.drain.fire();
        until(|| server.ended.get() == 1).await;
    });
}

#[test]
fn a_drain_has_an_end() {
    run(async {
        let server = Server::with(|settings| settings.drain_grace = Duration::from_millis(20));
        let client = server.client().await;
        let mut never = Box::pin(async { try_call(&client, request("/test.Echo/Never"), &[prefixed(0, b"x")]).await });
        assert!(!is_ready(&mut never).await);
        until(|| server.settings.counters.requests_active.get() == 1).await;
        server.drain.fire();
        assert!(never.await.is_err());
        until(|| server.ended.get() == 1 && server.service.dropped.get() == 1).await;
    });
}
