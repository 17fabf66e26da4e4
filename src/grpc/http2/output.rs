//! Bytes on their way to the socket, in order: small ones joined in one buffer, large ones referenced where they lie.
//! It knows nothing of frames; what stands here is written whatever becomes of its stream.

use std::{cell::Cell, collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

use crate::limits;

thread_local! {
    /// The buffer of a connection of this executor that has written all it had: a silent connection has none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[derive(Default)]
pub struct Output {
    joined: Vec<u8>,
    /// Of `joined`, what has been written.
    written: usize,
    /// Parts, each with its place in `joined`.
    referenced: VecDeque<(usize, Bytes)>,
    referenced_bytes: usize,
}

impl Output {
    /// Bytes still to be written.
    pub fn len(&self) -> usize {
        self.joined.len() - self.written + self.referenced_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where small things are appended.
    #[inline]
    pub fn joined(&mut self) -> &mut Vec<u8> {
        if self.joined.capacity() == 0 {
            self.joined = SPARE.take();
        }
        &mut self.joined
    }

    /// What is to be written, where it is in one piece.
    pub fn only(&self) -> Option<&[u8]> {
        self.referenced.is_empty().then(|| &self.joined[self.written..])
    }

    pub fn push(&mut self, part: Bytes) {
        if part.len() < limits::GRPC_COPIED_BYTES {
            self.joined().extend_from_slice(&part);
        } else {
            self.referenced_bytes += part.len();
            self.referenced.push_back((self.joined.len(), part));
        }
    }

    /// What is to be written next, in as many slices as there is room for. Returns how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut from = self.written;
        let mut filled = 0;
        let mut put = |part: &'a [u8]| {
            if filled == slices.len() {
                return;
            }
            if !part.is_empty() {
                slices[filled] = IoSlice::new(part);
                filled += 1;
            }
        };
        for (place, part) in &self.referenced {
            put(&self.joined[from..*place]);
            put(part);
            from = *place;
        }
        put(&self.joined[from..]);
        filled
    }

    /// So many of these bytes have been written.
    pub fn advance(&mut self, mut by: usize) {
        assert!(by <= self.len(), "more was written than there is");
        while let Some((place, part)) = self.referenced.front_mut() {
            let before = (*place - self.written).min(by);
            self.written += before;
            by -= before;
            let of_part = part.len().min(by);
            part.advance(of_part);
            by -= of_part;
            self.referenced_bytes -= of_part;
            if !part.is_empty() {
                by = 0;
                break;
            }
            self.referenced.pop_front();
        }
        self.written += by;
        // A socket that always leaves something must not make the buffer grow for ever.
        if self.written == self.joined.len() || self.written >= limits::GRPC_WRITE_BYTES {
            self.joined.drain(..self.written);
            for (place, _) in &mut self.referenced {
                *place -= self.written;
            }
            self.written = 0;
        }
    }

    /// Gives back what a silent connection need not keep.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            let joined = std::mem::take(&mut self.joined);
            if joined.capacity() <= 4 * limits::GRPC_WRITE_BYTES {
                SPARE.set(joined);
            }
            if self.referenced.capacity() > 0 {
                self.referenced = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(output: &Output) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = output.slices(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn bytes_come_out_in_order_at_every_step() {
        let large = |byte: u8| Bytes::from(vec![byte; limits::GRPC_COPIED_BYTES]);
        for step in [1, 2, 3, 7, 100, 2047, 2048, 2049, 5000, 100_000] {
            let mut output = Output::default();
            output.joined().extend_from_slice(b"abc");
            output.push(large(1));
            output.push(large(2));
            output.push(Bytes::from_static(b"de"));
            output.push(large(3));
            output.joined().extend_from_slice(b"f");
            let expected = [b"abc", &*large(1), &large(2), b"de", &large(3), b"f"].concat();
            assert_eq!(all(&output), expected);
            let mut written: Vec<u8> = Vec::new();
            while !output.is_empty() {
                assert_eq!(output.len(), expected.len() - written.len());
                let rest = all(&output);
                let by = step.min(rest.len());
                written.extend(&rest[..by]);
                output.advance(by);
            }
            assert_eq!(written, expected);
            output.push(large(4));
            assert_eq!(all(&output), large(4));
        }
    }
}
