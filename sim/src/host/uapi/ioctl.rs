//! `ioctl=CODE`: a control request of the driver's, with the bytes that `DeviceIoControl` would carry.
//!
//! An addition of ours to the protocol, for `penstock`, which speaks to the driver in nothing else. Behind the first line stand
//! `input=LENGTH` and `output=LENGTH`, an empty line, and the bytes of the input buffer; where the code's method reads the output
//! buffer (METHOD_IN_DIRECT), its bytes, too. The answer is `status=` (an NTSTATUS, signed), `information=`, `errno=0`, an empty
//! line, and, where the method writes the output buffer, as many of its bytes as `information` says and the buffer has.
//!
//! The requests of a connection are made with one handle, which is closed when it ends. One that waits (READ_LOG_LINE) is not taken:
//! a connection that ends could not take it back.

use std::io::{self, BufRead, Read};

use abi::ioctl::{READ_LOG_LINE, SET_MAX_LEN, reads_output};

use super::{Client, errno_line, read_line};

/// STATUS_NOT_SUPPORTED: the request is none that can be made so.
const NOT_SUPPORTED: i32 = 0xC000_00BB_u32 as i32;

/// The control code of a request's first line; `None` if it begins another kind of request.
pub(super) fn code(first: &str) -> Option<u32> {
    first.strip_prefix("ioctl=")?.parse().ok()
}

/// Reads the rest of a request and makes it.
pub(super) fn answer(
    client: &mut Client<'_>,
    code: u32,
    reader: &mut impl BufRead,
) -> io::Result<Vec<u8>> {
    let (Some(input), Some(output)) = (length(reader, "input=")?, length(reader, "output=")?)
    else {
        return Ok(errno_line(libc::EINVAL).into_bytes());
    };
    if read_line(reader)? != Some(Ok(String::new())) || input.saturating_add(output) > SET_MAX_LEN {
        return Ok(errno_line(libc::EINVAL).into_bytes());
    }
    let read = if reads_output(code) { output } else { 0 };
    let (Some(input), Some(mut buffer)) = (bytes(reader, input)?, bytes(reader, read)?) else {
        return Ok(errno_line(libc::EPROTO).into_bytes());
    };
    buffer.resize(output, 0);
    let (status, information) = if code == READ_LOG_LINE {
        (NOT_SUPPORTED, 0)
    } else {
        client.control(code, &input, &mut buffer)
    };
    let mut answer =
        format!("status={status}\ninformation={information}\n{}", errno_line(0)).into_bytes();
    if !reads_output(code) {
        let written = usize::try_from(information).unwrap_or(usize::MAX).min(buffer.len());
        answer.extend_from_slice(&buffer[..written]);
    }
    Ok(answer)
}

/// The number behind `key` in the next line; `None` if it does not stand there.
fn length(reader: &mut impl BufRead, key: &str) -> io::Result<Option<usize>> {
    let line = read_line(reader)?.and_then(Result::ok);
    Ok(line.and_then(|line| line.strip_prefix(key)?.parse().ok()))
}

/// The next `len` bytes; `None` if the stream ends before.
fn bytes(reader: &mut impl BufRead, len: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(len as u64).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use abi::ioctl::{GET, SET};

    use super::super::{Configured, Handle, SetRequest, Setting, trace};
    use super::*;
    use crate::verifier::schedule::lock;

    /// A code, and what the two buffers held.
    type Request = (u32, Vec<u8>, Vec<u8>);

    /// Keeps what it is asked, and answers with 0xAA where there is room.
    #[derive(Default)]
    struct Asked(Arc<Mutex<Vec<Request>>>, AtomicUsize);

    impl Configured for Asked {
        fn set(&self, _: &SetRequest) -> Result<(), i32> {
            Ok(())
        }

        fn get(&self) -> Result<String, i32> {
            Ok(String::new())
        }

        fn set_policy(&self, _: &[Setting]) -> Result<(), i32> {
            Ok(())
        }

        fn start_trace(&self, _: &trace::Request) -> Result<(), i32> {
            Ok(())
        }

        fn stop_trace(&self, _: &str) -> Result<(u64, String), i32> {
            Ok((0, String::new()))
        }

        fn open(&self) -> Result<Box<dyn Handle>, i32> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Opened(self.0.clone())))
        }
    }

    struct Opened(Arc<Mutex<Vec<Request>>>);

    impl Handle for Opened {
        fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> (i32, u64) {
            lock(&self.0).push((code, input.to_vec(), output.to_vec()));
            output.fill(0xAA);
            (-5, 3)
        }
    }

    fn ask(asked: &Asked, bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut reader, mut client) = (bytes, Client::new(asked));
        let answers = std::iter::from_fn(|| client.answer(&mut reader).unwrap()).collect();
        // One handle for all that are made.
        assert_eq!(asked.1.load(Ordering::Relaxed), usize::from(!lock(&asked.0).is_empty()));
        answers
    }

    #[test]
    fn a_request_carries_what_its_method_reads_and_writes() {
        let said = |tail: &[u8]| [b"status=-5\ninformation=3\nerrno=0\n\n", tail].concat();
        for (code, request, seen, answer) in [
            (GET, &b"input=2\noutput=5\n\n\n\n"[..], (&b"\n\n"[..], &[0; 5][..]), said(&[0xAA; 3])),
            (GET, b"input=0\noutput=2\n\n", (b"", &[0; 2]), said(&[0xAA; 2])),
            (SET, b"input=0\noutput=4\n\nget=", (b"", b"get="), said(b"")),
        ] {
            let asked = Asked::default();
            let one = [format!("ioctl={code}\n").as_bytes(), request].concat();
            let text = [&one[..], &one, b"get=1\n\n"].concat();
            assert_eq!(
                ask(&asked, &text),
                [answer.clone(), answer, b"errno=0\n\n".to_vec()],
                "and what follows is read"
            );
            let seen = (code, seen.0.to_vec(), seen.1.to_vec());
            assert_eq!(*lock(&asked.0), [seen.clone(), seen]);
        }
    }

    #[test]
    fn what_is_no_request_makes_none() {
        let asked = Asked::default();
        let too_long = format!("ioctl={SET}\ninput=0\noutput={}\n\n", SET_MAX_LEN + 1);
        for (text, errno) in [
            (&b"ioctl=1\ninput=1\n\n"[..], "errno=-22\n\n"),
            (b"ioctl=1\ninput=x\noutput=1\n\n", "errno=-22\n\n"),
            (b"ioctl=1\ninput=0\noutput=0\nmore\n\n", "errno=-22\n\n"),
            (too_long.as_bytes(), "errno=-22\n\n"),
            (b"ioctl=1\ninput=3\noutput=0\n\nab", "errno=-71\n\n"),
        ] {
            let answers = ask(&asked, text);
            assert_eq!(answers[0], errno.as_bytes(), "{}", text.escape_ascii());
        }
        let waits = format!("ioctl={READ_LOG_LINE}\ninput=0\noutput=128\n\n");
        let refused = b"status=-1073741637\ninformation=0\nerrno=0\n\n".to_vec();
        assert_eq!(ask(&asked, waits.as_bytes()), [refused]);
        assert!(lock(&asked.0).is_empty());
    }
}
