//! Clients that are hostile, broken or silent, frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{raw::*, *};
use crate::limits;

/// The bytes of an h2 client that makes one call, as they go over the wire.
async fn recorded() -> Vec<u8> {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut client, connection) = h2::client::handshake(near).await.unwrap();
    spawn(async move {
        let _ = connection.await;
    });
    let (_response, mut send) = client.send_request(request("/test.Echo/Echo").body(()).unwrap(), false).unwrap();
    send.send_data(prefixed(0, b"cut me"), true).unwrap();
    settle().await;
    let mut bytes = vec![0; 64 * 1024];
    let len = far.read(&mut bytes).await.unwrap();
    bytes.truncate(len);
    bytes
}

/// Reads until stream 1 has ended and returns its data.
async fn answered(pipe: &mut DuplexStream) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let frame = read(pipe).await.expect("the server has closed");
        if frame.kind == DATA {
            data.extend(&frame.payload);
        }
        if frame.stream == 1 && frame.kind <= HEADERS && frame.flags & END_STREAM != 0 {
            return data;
        }
    }
}

#[test]
fn the_bytes_of_a_request_may_be_cut_anywhere() {
    run(async {
        let bytes = recorded().await;
        assert!(bytes.len() > 100);
        let server = Server::new();
        for at in 1..bytes.len() {
            let mut pipe = server.pipe(64 * 1024);
            pipe.write_all(&bytes[..at]).await.unwrap();
            for _ in 0..5 {
                runtime::yield_now().await;
            }
            pipe.write_all(&bytes[at..]).await.unwrap();
            assert_eq!(answered(&mut pipe).await, &prefixed(0, b"cut me")[..], "cut at {at}");
        }
        // A pipe of one byte cuts both directions at every byte.
        let mut pipe = server.pipe(1);
        pipe.write_all(&bytes).await.unwrap();
        assert_eq!(answered(&mut pipe).await, &prefixed(0, b"cut me")[..]);
        until(|| server.ended.get() == bytes.len() - 1).await;
    });
}

#[test]
fn pings_in_haste_end_the_connection_with_the_reason() {
    run(async {
        let server = Server::new();
        let mut pipe = raw(&server).await;
        for at in 0..4 {
            pipe.write_all(&frame(PING, 0, 0, &[at; 8])).await.unwrap();
        }
        let frames = read_to_end(&mut pipe).await;
        let last = frames.last().unwrap();
        assert_eq!(last.kind, GOAWAY);
        assert_eq!(last.payload, [&[0, 0, 0, 0, 0, 0, 0, 11][..], b"too_many_pings"].concat());
        drop(pipe);
        until(|| server.ended.get() == 1).await;
    });
}

#[test]
fn pings_in_haste_are_borne_while_there_are_answers() {
    run(async {
        let server = Server::new();
        let (client, mut connection) = h2::client::handshake(server.pipe(64 * 1024)).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        spawn(async move {
            let _ = connection.await;
        });
        for _ in 0..20 {
            let reply = call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"x")]).await;
            assert_eq!(reply.status().0, "0");
            pings.ping(h2::Ping::opaque()).await.unwrap();
        }
        assert_eq!(server.ended.get(), 0);
    });
}

/// grpc-go's client measures its line with a ping for each flight of DATA that it receives.
#[test]
fn pings_in_haste_are_borne_while_a_long_answer_is_on_its_way() {
    run(async {
        let server = Server::new();
        let mut client = h2::client::Builder::new();
        client.initial_window_size(16 * 1024).initial_connection_window_size(64 * 1024);
        let (client, mut connection) = client.handshake(server.pipe(64 * 1024)).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        spawn(async move {
            let _ = connection.await;
        });
        let message = prefixed(0, &[7; 500_000]);
        let mut client = client.ready().await.unwrap();
        let (response, mut sender) = client.send_request(request("/test.Echo/Echo").body(()).unwrap(), false).unwrap();
        sender.send_data(message.clone(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let (mut received, mut asked) = (0, 0);
        while let Some(data) = body.data().await {
            let len = data.unwrap().len();
            received += len;
            pings.ping(h2::Ping::opaque()).await.unwrap();
            asked += 1;
            body.flow_control().release_capacity(len).unwrap();
        }
        assert_eq!(received, message.len());
        assert!(asked > 20, "{asked} pings prove little");
        assert_eq!(server.ended.get(), 0);
    });
}

#[test]
fn a_ping_flood_does_not_spare_a_connection_with_calls() {
    run(async {
        let server = Server::new();
        let mut pipe = raw(&server).await;
        pipe.write_all(&frame(HEADERS, END_HEADERS, 1, &head("/test.Echo/Wait"))).await.unwrap();
        until(|| server.settings.counters.requests_active.get() == 1).await;
        for _ in 0..100 {
            pipe.write_all(&frame(PING, 0, 0, &[1; 8])).await.unwrap();
        }
        let frames = read_to_end(&mut pipe).await;
        assert_eq!(frames.last().unwrap().payload[..8], [0, 0, 0, 1, 0, 0, 0, 11]);
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}

#[test]
fn a_silent_connection_is_asked_and_closed_if_it_does_not_answer() {
    run(async {
        let server = Server::with(|settings| {
            settings.keepalive_interval = Duration::from_millis(20);
            settings.keepalive_timeout = Duration::from_secs(2);
        });
        let mut pipe = raw(&server).await;
        let mut answered = 0;
        while let Some(asked) = read(&mut pipe).await {
            if asked.kind == PING && asked.flags & ACK == 0 && answered < 3 {
                answered += 1;
                pipe.write_all(&frame(PING, ACK, 0, &asked.payload)).await.unwrap();
            }
        }
        assert_eq!(answered, 3);
        until(|| server.ended.get() == 1).await;
    });
}

#[test]
fn what_is_not_http2_is_closed() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1024);
        pipe.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and more").await.unwrap();
        assert!(read_to_end(&mut pipe).await.iter().all(|frame| frame.kind == SETTINGS));
        until(|| server.ended.get() == 1).await;
        assert_eq!(server.settings.counters.connections.get(), 0);
    });
}

#[test]
fn a_broken_frame_ends_its_own_connection_only() {
    run(async {
        let server = Server::new();
        let other = server.client().await;
        let broken = [
            frame(DATA, 0, 0, b"data on no stream"),
            frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
            frame(SETTINGS, 0, 0, b"12345"),
            frame(PING, 0, 0, b"short"),
            vec![0xff; 64],
        ];
        for (at, broken) in broken.into_iter().enumerate() {
            let mut pipe = raw(&server).await;
            pipe.write_all(&broken).await.unwrap();
            let frames = read_to_end(&mut pipe).await;
            assert_eq!(frames.last().unwrap().kind, GOAWAY, "case {at}");
            drop(pipe);
            until(|| server.ended.get() == at + 1).await;
            assert_eq!(call(&other, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
        }
    });
}

#[test]
fn headers_beyond_their_bound_end_their_call_only() {
    run(async {
        let server = Server::with(|settings| settings.max_header_bytes = 4096);
        let client = server.client().await;
        let large = || request("/test.Echo/Echo").header("large", "x".repeat(8000));
        let refused = try_call(&client, large(), &[prefixed(0, b"x")]).await;
        assert!(refused.is_err() || refused.unwrap().http == 431);
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
    });
}

#[test]
fn halves_of_messages_are_bounded_over_all_connections() {
    run(async {
        let held = limits::UNFINISHED_BYTES - 1000;
        let server = Server::with(|settings| settings.unfinished.set(held));
        let mut pipe = raw(&server).await;
        pipe.write_all(&frame(HEADERS, END_HEADERS, 1, &head("/test.Echo/Echo"))).await.unwrap();
        pipe.write_all(&frame(DATA, 0, 1, &[&[0, 0, 0, 16, 0][..], &[7; 2000]].concat())).await.unwrap();
        let refusal = loop {
            let frame = read(&mut pipe).await.unwrap();
            if frame.kind == HEADERS {
                break frame;
            }
        };
        let text = String::from_utf8_lossy(&refusal.payload).into_owned();
        assert!(text.contains("grpc: too many bytes of unfinished messages"), "{text}");
        // What comes whole is in nobody's way.
        let client = server.client().await;
        let large = prefixed(0, &[7; 5000]);
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[large]).await.status().0, "0");
        assert_eq!(server.settings.unfinished.get(), held);
    });
}

#[test]
fn more_streams_than_announced_are_refused() {
    run(async {
        let server = Server::with(|settings| settings.max_concurrent_streams = 2);
        let mut pipe = raw(&server).await;
        for stream in [1, 3, 5] {
            pipe.write_all(&frame(HEADERS, END_HEADERS, stream, &head("/test.Echo/Wait"))).await.unwrap();
        }
        let refused = loop {
            let frame = read(&mut pipe).await.unwrap();
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_eq!((refused.stream, &refused.payload[..]), (5, &7u32.to_be_bytes()[..]));
        assert_eq!(server.settings.counters.requests_active.get(), 2);
    });
}

#[test]
fn callers_that_change_their_mind_at_once_are_borne() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        for _ in 0..500 {
            let mut client = client.clone().ready().await.unwrap();
            let (_response, mut send) =
                client.send_request(request("/test.Echo/Wait").body(()).unwrap(), false).unwrap();
            runtime::yield_now().await;
            send.send_reset(h2::Reason::CANCEL);
        }
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
        until(|| server.settings.counters.requests_active.get() == 0).await;
    });
}

#[test]
fn streams_opened_and_reset_in_masses_end_the_connection() {
    run(async {
        let server = Server::new();
        let mut pipe = server.pipe(1 << 20);
        pipe.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let mut flood = Vec::new();
        for stream in (1..20_000u32).step_by(2) {
            flood.extend(frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x84\x41\x01a"));
            flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        let _ = pipe.write_all(&flood).await;
        let frames = read_to_end(&mut pipe).await;
        let last = frames.last().unwrap();
        assert_eq!((last.kind, &last.payload[4..8]), (GOAWAY, &11u32.to_be_bytes()[..]));
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}
