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
        assert_eq!(server.settings.counters.requests_active.get(), 1);
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        until(|| server.settings.counters.requests_active.get() == 0).await;
        let counted = &server.settings.counters.methods[4];
        assert_eq!((counted.received.get(), counted.sent.get()), (2, 2));
        assert_eq!(server.handled(4, Code::Ok), 1);
    });
}

#[test]
fn messages_may_be_cut_and_joined_anywhere() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut all = BytesMut::new();
        for len in [0, 1, 2, 7, 300, 0, 5_000, 3, 20_000, 1] {
            all.extend_from_slice(&prefixed(0, &vec![len as u8; len]));
        }
        let all = all.freeze();
        for step in [1, 2, 3, 5, 6, 7, 11, 64, 1000, 4095, 4096, 5003, 16_384, all.len()] {
            let pieces: Vec<Bytes> =
                (0..all.len()).step_by(step).map(|at| all.slice(at..all.len().min(at + step))).collect();
            let reply = call(&client, request("/test.Echo/Chat"), &pieces).await;
            assert_eq!(reply.status(), ("0", ""), "in steps of {step}");
            assert!(reply.body == all, "in steps of {step}");
        }
    });
}

#[test]
fn a_stream_without_messages_is_answered_with_a_status() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let reply = call(&client, request("/test.Echo/Chat"), &[]).await;
        assert_eq!(reply.status(), ("0", ""));
        assert!(reply.trailers.is_none());
    });
}

#[test]
fn what_is_wrong_with_a_message_ends_the_call_whatever_the_handler_says() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let cases: [(&'static [u8], &str, &str); 4] = [
            (b"\0\0\0\0\x01a\x02\0\0\0\x01b", "13", "grpc: received unexpected payload format 2"),
            (b"\0\0\0\0\x01a\0\0\0\0\x02b", "13", "unexpected EOF"),
            (b"\0\0\0\0\x01a\0\xff\0\0\0", "8", "grpc: received message larger than max (4278190080 vs. 2097152)"),
            (b"\0\0\0\0\x01a\0\0\0", "0", ""),
        ];
        for (body, code, text) in cases {
            let reply = call(&client, request("/test.Echo/Chat"), &[Bytes::from_static(body)]).await;
            assert_eq!(reply.status(), (code, text));
            assert_eq!(reply.messages(), ["a"]);
        }
    });
}

#[test]
fn ten_thousand_small_messages_in_one_flight_are_all_taken() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let pieces: Vec<Bytes> = (0..10_000u32).map(|at| prefixed(0, &at.to_be_bytes())).collect();
        let reply = call(&client, request("/test.Echo/Chat"), &pieces).await;
        assert_eq!(reply.status(), ("0", ""));
        assert!(reply.messages().iter().zip(0u32..).all(|(message, at)| message[..] == at.to_be_bytes()));
        assert_eq!(reply.messages().len(), 10_000);
    });
}

#[test]
fn small_messages_wait_for_a_handler_that_does_not_read_yet() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let pieces: Vec<Bytes> = (0..50_000u32).map(|at| prefixed(0, &at.to_be_bytes())).collect();
        let mut reply = Box::pin(async { call(&client, request("/test.Echo/Hold"), &pieces).await });
        assert!(!is_ready(&mut reply).await);
        settle().await;
        server.service.gate.open();
        assert_eq!(reply.await.messages(), [&200_000u64.to_be_bytes()[..]]);
        assert_eq!(server.service.messages.get(), 50_000);
    });
}

#[test]
fn a_handler_that_does_not_read_holds_its_caller_at_the_window() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request("/test.Echo/Hold").body(()).unwrap(), false).unwrap();
        let window = limits::GRPC_STREAM_WINDOW_BYTES as usize;
        send.reserve_capacity(2 * window);
        let mut sent = 0;
        let message = prefixed(0, &vec![1; 1019]);
        // Whole messages of 1 KiB as long as there is capacity.
        for _ in 0..3000 {
            runtime::yield_now().await;
            while send.capacity() >= message.len() {
                send.send_data(message.clone(), false).unwrap();
                sent += message.len();
                send.reserve_capacity(2 * window);
            }
        }
        assert_eq!(sent, window);
        server.service.gate.open();
        for _ in 0..8 {
            send.send_data(message.clone(), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        let reply = take(response.await.unwrap()).await.unwrap();
        assert_eq!(server.service.messages.get(), window / 1024 + 8);
        assert_eq!(reply.status(), ("0", ""));
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}

#[test]
fn a_slow_reader_costs_a_frame_and_a_message() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut client = client.ready().await.unwrap();
        let (response, _send) = client.send_request(request("/test.Echo/Pour").body(()).unwrap(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        settle().await;
        let poured = server.service.messages.get();
        settle().await;
        assert_eq!(server.service.messages.get(), poured, "it goes on although nobody reads");
        // A window of 65,535 and what is queued.
        assert!(poured <= (65_535 + limits::GRPC_REPLY_QUEUE_BYTES) / 10_005 + 1, "{poured}");
        assert!(server.service.queued_max.get() < limits::GRPC_REPLY_QUEUE_BYTES + 10_005);
        // Another stream of the connection is not held up: its window is its own, the connection's is not used up.
        while server.service.messages.get() < poured + 100 {
            let piece = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert!(server.service.queued_max.get() < limits::GRPC_REPLY_QUEUE_BYTES + 10_005);
    });
}

#[test]
fn ten_thousand_streams_are_served_at_once() {
    run(async {
        let server = Server::new();
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(20_000).initial_connection_window_size(1 << 24);
        let client = server.client_with(&builder).await;
        let mut open = Vec::new();
        for at in 0..10_000u32 {
            let mut client = client.clone().ready().await.unwrap();
            let request = request("/test.Echo/Chat").body(()).unwrap();
            let (response, mut send) = client.send_request(request, false).unwrap();
            send.send_data(prefixed(0, &at.to_be_bytes()), false).unwrap();
            open.push((response, send));
        }
        until(|| server.service.messages.get() == 10_000).await;
        assert_eq!(server.settings.counters.requests_active.get(), 10_000);
        for (at, (response, mut send)) in open.into_iter().enumerate() {
            send.send_data(Bytes::new(), true).unwrap();
            let reply = take(response.await.unwrap()).await.unwrap();
            assert_eq!(reply.messages(), [&(at as u32).to_be_bytes()[..]]);
        }
        assert_eq!(server.handled(4, Code::Ok), 10_000);
    });
}
