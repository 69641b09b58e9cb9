//! Standard input that can be asked whether it has something, so that a slow producer's records don't wait for a full batch.
//!
//! Owns: the reading thread and its bounded queue. Does not own: what the bytes are (source).

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CHUNK: usize = 64 << 10;
// 64 KiB each: a megabyte may wait.
const QUEUE: usize = 16;

struct State {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    taken: usize,
    failed: Option<io::Error>,
    ended: bool,
}

/// The reading end. Clones share it.
#[derive(Clone)]
pub(super) struct Pipe(Arc<Mutex<State>>);

impl Pipe {
    /// Reads `input` on a thread of its own from now on.
    pub(super) fn start(input: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, chunks) = sync_channel(QUEUE);
        std::thread::Builder::new().name("stdin".into()).spawn(move || pump(input, &sender))?;
        Ok(Self(Arc::new(Mutex::new(State { chunks, current: Vec::new(), taken: 0, failed: None, ended: false }))))
    }

    /// Would a read return at once? Waits this long for it to become so.
    pub(super) fn ready(&self, wait: Duration) -> bool {
        let mut state = self.lock();
        if state.ended || state.taken < state.current.len() || state.failed.is_some() {
            return true;
        }
        match state.chunks.recv_timeout(wait) {
            Ok(chunk) => state.accept(chunk),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => state.ended = true,
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn accept(&mut self, chunk: io::Result<Vec<u8>>) {
        match chunk {
            Ok(chunk) => (self.current, self.taken) = (chunk, 0),
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        while state.taken == state.current.len() && !state.ended {
            if let Some(error) = state.failed.take() {
                state.ended = true;
                return Err(error);
            }
            match state.chunks.recv() {
                Ok(chunk) => state.accept(chunk),
                Err(_hung_up) => state.ended = true,
            }
        }
        let rest = &state.current[state.taken..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        state.taken += len;
        Ok(len)
    }
}

fn pump(mut input: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let answer = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => Ok(buffer[..len].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        // Nobody listens any more, or nothing can follow an error: either way the thread is done.
        let done = answer.is_err();
        if sender.send(answer).is_err() || done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_through_in_order_and_the_end_is_ready() {
        let data: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i % 251) as u8).collect();
        let mut pipe = Pipe::start(io::Cursor::new(data.clone())).expect("starts");
        let mut back = Vec::new();
        pipe.read_to_end(&mut back).expect("reads");
        assert!(back == data);
        assert!(pipe.ready(Duration::ZERO));
    }

    #[test]
    fn a_producer_that_says_nothing_is_not_ready_and_one_that_spoke_is() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut pipe = Pipe::start(reader).expect("starts");
        assert!(!pipe.ready(Duration::from_millis(1)));
        io::Write::write_all(&mut &writer, b"x").expect("writes");
        assert!(pipe.ready(Duration::from_secs(60)));
        let mut byte = [0];
        assert_eq!((pipe.read(&mut byte).expect("reads"), byte), (1, *b"x"));
        drop(writer);
        assert_eq!(pipe.read(&mut byte).expect("ends"), 0);
    }

    #[test]
    fn an_error_comes_behind_the_bytes_before_it() {
        struct Broken(bool);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("unplugged"));
                }
                buffer[0] = 7;
                Ok(1)
            }
        }
        let mut pipe = Pipe::start(Broken(false)).expect("starts");
        let mut back = Vec::new();
        assert!(pipe.read_to_end(&mut back).is_err());
        assert_eq!(back, [7]);
    }
}
