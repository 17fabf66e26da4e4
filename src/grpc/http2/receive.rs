//! What a client sends, frame by frame: each is checked, accounted for, and turned into a change of a stream or of the
//! connection. Frames are looked at whole; one that has come in pieces waits in `carry`, at most one of the largest
//! size. (RFC 9113, sections 5 and 6; where it leaves a choice, grpc-go's internal/transport/http2_server.go.)

use std::time::Instant;

use super::{
    connection::{Away, Block, Connection, DRAIN_PING, Fault, Phase},
    frame::{self, HEAD_BYTES, Head as FrameHead, PAYLOAD_BYTES, PREFACE, Reason, WINDOW_BYTES_MAX},
    head::{Builder, Head, Unfit},
    hpack::Undecodable,
    stream::{Half, Key, Stream},
};
use crate::limits;

/// Where the number of a frame leads.
enum Found {
    Open(Key),
    Closed,
}

impl Connection {
    /// Takes what has come at `now`. Requests are then found by `take_request`, bodies with their streams.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        let received = self.receive_all(bytes, now).and_then(|()| self.look_at_windows());
        if let Err(fault) = received {
            self.end(fault);
        }
    }

    fn receive_all(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Fault> {
        if self.phase == Phase::Preface {
            self.receive_preface(&mut bytes);
        }
        while !bytes.is_empty() && self.phase != Phase::Ended {
            if !self.carry.is_empty() {
                if !self.complete_carry(&mut bytes)? {
                    return Ok(());
                }
                let mut whole = std::mem::take(&mut self.carry);
                let (head, payload) = whole.split_first_chunk().expect("it has a head");
                self.frame(FrameHead::read(head), payload, now)?;
                whole.clear();
                self.carry = whole;
                continue;
            }
            let Some((head, rest)) = bytes.split_first_chunk() else {
                self.carry.extend_from_slice(bytes);
                return Ok(());
            };
            let head = FrameHead::read(head);
            check_size(head)?;
            let Some((payload, rest)) = rest.split_at_checked(head.len) else {
                self.carry.reserve_exact(HEAD_BYTES + head.len);
                self.carry.extend_from_slice(bytes);
                return Ok(());
            };
            bytes = rest;
            self.frame(head, payload, now)?;
        }
        Ok(())
    }

    /// What begins otherwise is closed without a word: it would not understand it.
    fn receive_preface(&mut self, bytes: &mut &[u8]) {
        let (here, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - self.carry.len()));
        *bytes = rest;
        self.carry.extend_from_slice(here);
        if !PREFACE.starts_with(&self.carry) {
            self.close();
        } else if self.carry.len() == PREFACE.len() {
            self.carry = Vec::new();
            self.phase = Phase::Settings;
            self.greet();
        }
    }

    fn greet(&mut self) {
        let mut settings = vec![
            (frame::SETTING_INITIAL_WINDOW_SIZE, limits::GRPC_STREAM_WINDOW_BYTES),
            (frame::SETTING_MAX_HEADER_LIST_SIZE, self.config.header_bytes_max),
        ];
        if self.config.streams_max != u32::MAX {
            settings.push((frame::SETTING_MAX_CONCURRENT_STREAMS, self.config.streams_max));
        }
        frame::put_settings(self.output.joined(), &settings);
        let more = limits::GRPC_CONNECTION_WINDOW_BYTES - frame::WINDOW_BYTES as u32;
        frame::put_window_update(self.output.joined(), 0, more);
    }

    /// Adds to `carry` what completes it. False: it is still not a whole frame.
    fn complete_carry(&mut self, bytes: &mut &[u8]) -> Result<bool, Fault> {
        let mut fill = |carry: &mut Vec<u8>, len: usize| {
            let (here, rest) = bytes.split_at(bytes.len().min(len.saturating_sub(carry.len())));
            carry.extend_from_slice(here);
            *bytes = rest;
            carry.len() >= len
        };
        if !fill(&mut self.carry, HEAD_BYTES) {
            return Ok(false);
        }
        let head = FrameHead::read(self.carry.first_chunk().expect("it has a head"));
        check_size(head)?;
        let len = HEAD_BYTES + head.len;
        self.carry.reserve_exact(len - self.carry.len());
        Ok(fill(&mut self.carry, len))
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if self.phase == Phase::Settings && (head.kind != frame::SETTINGS || head.has(frame::FLAG_ACK)) {
            return Err(Fault(Reason::Protocol, "the first frame is not SETTINGS"));
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return Err(Fault(Reason::Protocol, "a header block was interrupted"));
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::PRIORITY => self.priority(head),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => Err(Fault(Reason::Protocol, "a client promises nothing")),
            frame::PING => self.ping_frame(head, payload, now),
            frame::GOAWAY => go_away(head),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            // Section 4.1.
            _ => Ok(()),
        }
    }

    /// The stream of a frame that does not open one.
    fn find(&self, head: FrameHead) -> Result<Found, Fault> {
        match self.listed.get(&head.stream) {
            Some(&key) => Ok(Found::Open(Key(key))),
            None if head.stream == 0 => Err(Fault(Reason::Protocol, "a frame on stream 0")),
            // Section 5.1: nothing may be said of a stream that has not been opened; a client opens odd ones.
            None if head.stream > self.newest || head.stream.is_multiple_of(2) => {
                Err(Fault(Reason::Protocol, "a frame on an idle stream"))
            }
            None => Ok(Found::Closed),
        }
    }

    fn data(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        let found = self.find(head)?;
        let data = head.unpadded(payload).ok_or(Fault(Reason::Protocol, "padding longer than its frame"))?;
        let end = head.has(frame::FLAG_END_STREAM);
        // Padding counts as well (section 6.1).
        let len = payload.len() as i64;
        if len > self.receive_window {
            return Err(Fault(Reason::FlowControl, "more DATA than the connection's window"));
        }
        self.receive_window -= len;
        match (data.is_empty(), end) {
            (true, false) => self.empty_frames += 1,
            _ => self.empty_frames = self.empty_frames.saturating_sub(1),
        }
        if self.empty_frames > limits::GRPC_EMPTY_FRAMES {
            return Err(Fault(Reason::EnhanceYourCalm, "too many empty frames"));
        }
        let key = match found {
            Found::Open(key) => key,
            Found::Closed => {
                self.release_connection(len);
                if !self.late.contains(&head.stream) {
                    frame::put_reset(self.output.joined(), head.stream, Reason::StreamClosed);
                }
                return Ok(());
            }
        };
        let stream = &mut self.streams[key.0 as usize];
        let fault = match &mut stream.content_left {
            _ if stream.remote == Half::Ended => Some(Reason::StreamClosed),
            _ if len > stream.receive_window => Some(Reason::FlowControl),
            // Section 8.1.1.
            Some(left) if *left < data.len() as u64 || (end && *left > data.len() as u64) => Some(Reason::Protocol),
            Some(left) => {
                *left -= data.len() as u64;
                None
            }
            None => None,
        };
        if let Some(reason) = fault {
            self.release_connection(len);
            return self.fault_of(key, reason);
        }
        stream.receive_window -= len;
        if end {
            stream.remote = Half::Ended;
        }
        let mut unused = len;
        if !stream.unread {
            stream.body.push(data);
            unused -= data.len() as i64;
        }
        if unused > 0 {
            self.release(key, unused);
        }
        self.wake_reader(key);
        if end {
            self.settle(key);
        }
        Ok(())
    }

    fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        if head.stream.is_multiple_of(2) {
            return Err(Fault(Reason::Protocol, "a stream of this number is not a client's to open"));
        }
        let mut block = head.unpadded(payload).ok_or(Fault(Reason::Protocol, "padding longer than its frame"))?;
        if head.has(frame::FLAG_PRIORITY) {
            // Five bytes that nobody heeds (section 5.3.2).
            block = block.get(5..).ok_or(Fault(Reason::FrameSize, "HEADERS too short for a priority"))?;
        }
        let end_stream = head.has(frame::FLAG_END_STREAM);
        if head.has(frame::FLAG_END_HEADERS) {
            return self.block(head.stream, end_stream, block);
        }
        self.block = Some(Block { stream: head.stream, end_stream, bytes: block.to_vec(), frames: 1 });
        Ok(())
    }

    fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = self.block.take() else {
            return Err(Fault(Reason::Protocol, "nothing to continue"));
        };
        block.frames += 1;
        // Compressed, a block that is let in may be larger than its fields, but not by much.
        if block.frames > limits::GRPC_HEADER_FRAMES
            || block.bytes.len() + payload.len() > 2 * self.config.header_bytes_max as usize + PAYLOAD_BYTES
        {
            return Err(Fault(Reason::EnhanceYourCalm, "a header block without end"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::FLAG_END_HEADERS) {
            return self.block(block.stream, block.end_stream, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block: of a request, or of its trailers. It is decoded in any case, since the client has changed
    /// its table along with it.
    fn block(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Fault> {
        let room = self.config.header_bytes_max as usize;
        let mut builder = Builder::new(room, &mut self.metadata);
        self.decoder
            .decode(block, |field| builder.add(field))
            .map_err(|Undecodable| Fault(Reason::Compression, "a header block that cannot be decoded"))?;
        if id > self.newest {
            let head = builder.finish(&mut self.metadata_last);
            self.newest = id;
            return self.open(id, end_stream, head);
        }
        let fit = builder.finish_trailers();
        let Some(&key) = self.listed.get(&id) else {
            // Section 5.1.1: numbers ascend. One that was ended here may have been written to meanwhile.
            return match self.late.contains(&id) {
                true => Ok(()),
                false => Err(Fault(Reason::Protocol, "a stream's number below an earlier one")),
            };
        };
        self.trailers(Key(key), end_stream, fit)
    }

    fn open(&mut self, id: u32, end_stream: bool, head: Result<Head, Unfit>) -> Result<(), Fault> {
        if matches!(self.away, Away::After(_)) {
            // The client will know: what it says on it is not looked at.
            self.remember_late(id);
            return Ok(());
        }
        let length = head.as_ref().map_or(None, |head| head.content_length);
        let reason = match &head {
            Err(Unfit::Malformed) => Reason::Protocol,
            // As grpc-go has it.
            Err(Unfit::TooLarge) => Reason::FrameSize,
            Ok(_) if end_stream && length.is_some_and(|length| length > 0) => Reason::Protocol,
            Ok(_) if self.listed.len() >= self.config.streams_max as usize => Reason::RefusedStream,
            Ok(_) => Reason::NoError,
        };
        let head = match head {
            Ok(head) if reason == Reason::NoError => head,
            _ => {
                if !end_stream {
                    self.remember_late(id);
                }
                frame::put_reset(self.output.joined(), id, reason);
                return if reason == Reason::RefusedStream { Ok(()) } else { self.count_fault() };
            }
        };
        let mut stream = Stream::new(id, i64::from(limits::GRPC_STREAM_WINDOW_BYTES), length);
        if end_stream {
            stream.remote = Half::Ended;
        }
        let key = self.streams.insert(stream) as u32;
        self.listed.insert(id, key);
        self.fresh.push_back((Key(key), head));
        Ok(())
    }

    fn trailers(&mut self, key: Key, end_stream: bool, fit: Result<(), Unfit>) -> Result<(), Fault> {
        let stream = &mut self.streams[key.0 as usize];
        let reason = match fit {
            _ if stream.remote == Half::Ended => Reason::StreamClosed,
            Err(Unfit::TooLarge) => Reason::FrameSize,
            Err(Unfit::Malformed) => Reason::Protocol,
            Ok(()) if !end_stream || stream.content_left.is_some_and(|left| left > 0) => Reason::Protocol,
            Ok(()) => {
                stream.remote = Half::Ended;
                self.wake_reader(key);
                self.settle(key);
                return Ok(());
            }
        };
        self.fault_of(key, reason)
    }

    /// The client has broken a rule that concerns one stream.
    fn fault_of(&mut self, key: Key, reason: Reason) -> Result<(), Fault> {
        self.reset(key, reason);
        self.count_fault()
    }

    fn count_fault(&mut self) -> Result<(), Fault> {
        self.stream_faults += 1;
        match self.stream_faults > limits::GRPC_STREAM_ERRORS {
            true => Err(Fault(Reason::EnhanceYourCalm, "too many broken streams")),
            false => Ok(()),
        }
    }

    fn priority(&mut self, head: FrameHead) -> Result<(), Fault> {
        match (head.stream, head.len) {
            (0, _) => Err(Fault(Reason::Protocol, "a priority of stream 0")),
            (_, 5) => Ok(()),
            _ => match self.find(head)? {
                Found::Open(key) => self.fault_of(key, Reason::FrameSize),
                Found::Closed => Ok(()),
            },
        }
    }

    fn rst_stream(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault(Reason::FrameSize, "RST_STREAM has four bytes"));
        }
        let Found::Open(key) = self.find(head)? else { return Ok(()) };
        let stream = &mut self.streams[key.0 as usize];
        stream.reset = true;
        self.unread -= stream.clear_queue();
        stream.wakers.wake_all();
        let early = !stream.begun;
        self.settle(key);
        if early {
            self.early_resets += 1;
            if self.early_resets > limits::GRPC_PENDING_RESET_STREAMS {
                return Err(Fault(Reason::EnhanceYourCalm, "too many streams reset at once"));
            }
        }
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault(Reason::Protocol, "SETTINGS of a stream"));
        }
        if head.has(frame::FLAG_ACK) {
            return match payload {
                [] => Ok(()),
                _ => Err(Fault(Reason::FrameSize, "an acknowledgement of SETTINGS is empty")),
            };
        }
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(Fault(Reason::FrameSize, "a setting has six bytes"));
        };
        for &[a, b, value @ ..] in settings {
            self.setting(u16::from_be_bytes([a, b]), u32::from_be_bytes(value))?;
        }
        self.phase = Phase::Open;
        frame::put_settings_ack(self.output.joined());
        Ok(())
    }

    fn setting(&mut self, number: u16, value: u32) -> Result<(), Fault> {
        match number {
            frame::SETTING_HEADER_TABLE_SIZE => self.encoder.set_table_size(value),
            frame::SETTING_ENABLE_PUSH if value > 1 => {
                return Err(Fault(Reason::Protocol, "push is neither on nor off"));
            }
            frame::SETTING_INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_BYTES_MAX => {
                return Err(Fault(Reason::FlowControl, "a window beyond its bound"));
            }
            frame::SETTING_INITIAL_WINDOW_SIZE => {
                self.first_window = i64::from(value);
                self.first_window_changed = true;
            }
            frame::SETTING_MAX_FRAME_SIZE if !(PAYLOAD_BYTES..1 << 24).contains(&(value as usize)) => {
                return Err(Fault(Reason::Protocol, "a frame size out of its bounds"));
            }
            // What is announced here is more than is used: one stream would hold up the others.
            frame::SETTING_MAX_FRAME_SIZE => {}
            _ => {}
        }
        Ok(())
    }

    /// Once for all changes of the first window that came together: a frame of 15 bytes must not cost a look at every
    /// stream.
    fn look_at_windows(&mut self) -> Result<(), Fault> {
        if !std::mem::take(&mut self.first_window_changed) || self.phase == Phase::Ended {
            return Ok(());
        }
        for (key, stream) in &mut self.streams {
            if stream.send_window(self.first_window) > WINDOW_BYTES_MAX {
                return Err(Fault(Reason::FlowControl, "a window beyond its bound"));
            }
            if stream.schedule(self.first_window) {
                self.ready.push_back(key as u32);
            }
        }
        Ok(())
    }

    fn ping_frame(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault(Reason::Protocol, "a PING of a stream"));
        }
        let payload: &[u8; 8] = payload.try_into().map_err(|_| Fault(Reason::FrameSize, "a PING has eight bytes"))?;
        if head.has(frame::FLAG_ACK) {
            if *payload == DRAIN_PING && self.away == Away::Announced {
                self.away = Away::After(self.newest);
                frame::put_away(self.output.joined(), self.newest, Reason::NoError, "");
            }
            return Ok(());
        }
        frame::put_ping(self.output.joined(), true, payload);
        match self.pings.received(now, !self.listed.is_empty(), std::mem::take(&mut self.replied)) {
            true => Err(Fault(Reason::EnhanceYourCalm, "too_many_pings")),
            false => Ok(()),
        }
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fault> {
        let payload: [u8; 4] =
            payload.try_into().map_err(|_| Fault(Reason::FrameSize, "WINDOW_UPDATE has four bytes"))?;
        let by = i64::from(u32::from_be_bytes(payload) & 0x7fff_ffff);
        if head.stream == 0 {
            return match by {
                0 => Err(Fault(Reason::Protocol, "a window is opened by nothing")),
                _ if self.send_window + by > WINDOW_BYTES_MAX => {
                    Err(Fault(Reason::FlowControl, "a window beyond its bound"))
                }
                _ => {
                    self.send_window += by;
                    Ok(())
                }
            };
        }
        let Found::Open(key) = self.find(head)? else { return Ok(()) };
        let stream = &mut self.streams[key.0 as usize];
        if by == 0 {
            return self.fault_of(key, Reason::Protocol);
        }
        if stream.send_window(self.first_window) + by > WINDOW_BYTES_MAX {
            return self.fault_of(key, Reason::FlowControl);
        }
        stream.send_window_over += by;
        self.schedule(key);
        Ok(())
    }
}

fn check_size(head: FrameHead) -> Result<(), Fault> {
    match head.len > PAYLOAD_BYTES {
        true => Err(Fault(Reason::FrameSize, "a frame larger than announced")),
        false => Ok(()),
    }
}

/// A client that goes still gets its answers.
fn go_away(head: FrameHead) -> Result<(), Fault> {
    match (head.stream, head.len) {
        (0, 8..) => Ok(()),
        (0, _) => Err(Fault(Reason::FrameSize, "GOAWAY has eight bytes")),
        _ => Err(Fault(Reason::Protocol, "GOAWAY of a stream")),
    }
}
