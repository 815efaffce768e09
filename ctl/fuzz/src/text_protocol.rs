//! The text protocol of `wg`, as somebody hostile writes it: every request is answered or ends the stream, what reaches the driver is a
//! configuration, and where a stream is cut when it is read changes nothing.

use std::cell::RefCell;
use std::io::{self, Read, Write};

use abi::ioctl::{GET, SET, Set};
use ctl::driver::{Answer, Device, Status};
use ctl::uapi::{Rights, ask, serve};

/// STATUS_INVALID_PARAMETER.
const INVALID_PARAMETER: Status = Status(0xC000_000D_u32.cast_signed());
/// EPROTO, behind which nothing is read.
const LAST: &str = "errno=-71\n\n";

/// Answers a GET with the last SET, and counts them.
#[derive(Default)]
struct Kept(RefCell<(Vec<u8>, usize)>);

impl Device for Kept {
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<Answer> {
        let (kept, sets) = &mut *self.0.borrow_mut();
        assert!(input.is_empty(), "both requests have one buffer");
        if code == SET {
            let set = Set::parse(output).expect("what reaches the driver is a configuration");
            assert_eq!(set.len_bytes(), output.len());
            *sets += 1;
            // A driver refuses some of what it understands.
            if set.listen_port() == Some(13) {
                return Ok(Answer { status: INVALID_PARAMETER, information: 0 });
            }
            *kept = output.to_vec();
            return Ok(Answer { status: Status::SUCCESS, information: kept.len() });
        }
        assert_eq!(code, GET);
        let room = output.len().min(kept.len());
        output[..room].copy_from_slice(&kept[..room]);
        let status = if room < kept.len() { Status::BUFFER_OVERFLOW } else { Status::SUCCESS };
        Ok(Answer { status, information: kept.len() })
    }
}

/// What is read, so many bytes at a time, and what was written.
struct Stream<'a> {
    text: &'a [u8],
    at_once: usize,
    answers: Vec<u8>,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.at_once);
        self.text.read(&mut buffer[..len])
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answers.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The answers to `text`, and how often the driver was asked to change something.
fn told(text: &[u8], at_once: usize, rights: Rights) -> (String, usize) {
    let device = Kept::default();
    let mut stream = Stream { text, at_once, answers: Vec::new() };
    serve(&mut stream, &device, || rights).expect("this stream has no errors");
    let answers = String::from_utf8(stream.answers).expect("answers are text");
    (answers, device.0.into_inner().1)
}

/// Serves `input`.
///
/// # Panics
///
/// If an answer is none, or depends on how the stream is read.
pub(crate) fn run(input: &[u8]) {
    // The other end: whoever answers so is read as a configuration, or not.
    let answering = Stream { text: input, at_once: 5, answers: Vec::new() };
    if let Ok(read) = ask(answering) {
        assert!(Set::parse(&read).is_ok());
    }
    let whole = told(input, usize::MAX, Rights::All);
    assert_eq!(whole, told(input, 3, Rights::All), "by pieces");
    let (answers, sets) = whole;
    assert!(answers.is_empty() || answers.ends_with("\n\n"), "{answers}");
    let parts: Vec<_> = answers.split_inclusive("\n\n").collect();
    let requests = input
        .split(|byte| *byte == b'\n')
        .filter(|line| matches!(*line, b"get=1" | b"set=1"))
        .count();
    // One more for what is no request.
    assert!(parts.len() <= requests + 1 && sets <= parts.len(), "{answers}");
    for (number, part) in parts.iter().enumerate() {
        let last = part.trim_end().rsplit('\n').next().unwrap_or_default();
        let errno = last.strip_prefix("errno=").and_then(|errno| errno.parse::<i32>().ok());
        let errno = errno.unwrap_or_else(|| panic!("no errno at the end of {part}"));
        assert!(errno <= 0);
        // Who is refused is told nothing but that.
        assert!(errno == 0 || part.trim_end() == last, "{part}");
        assert!(*part != LAST || number + 1 == parts.len(), "{answers}");
        for line in part.trim_end().split('\n') {
            let (key, _) = line.split_once('=').expect("a key and a value");
            assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        }
    }
    // Who may see the status only changes nothing.
    let (answers, sets) = told(input, 5, Rights::Status);
    assert!(sets == 0 && !answers.contains("private_key="), "{answers}");

    // What is there then is what was set: set again, it is the same.
    let (again, _) = told(&[input, b"\n\n\nget=1\n\n"].concat(), usize::MAX, Rights::All);
    let got = again.split_inclusive("\n\n").last().unwrap_or_default();
    if got.starts_with("errno=") {
        return;
    }
    let lines: Vec<_> = got
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("errno="))
        .filter(|line| !["last_", "tx_", "rx_"].iter().any(|own| line.starts_with(own)))
        .collect();
    if lines.contains(&"listen_port=13") {
        // Refused, as above.
        return;
    }
    let text = format!("set=1\n{}\n\nget=1\n\n", lines.join("\n"));
    let (set, _) = told(text.as_bytes(), usize::MAX, Rights::All);
    let (first, second) = set.split_once("\n\n").unwrap_or_default();
    assert_eq!(first, "errno=0", "{text}");
    let got: Vec<_> = second.lines().collect();
    assert!(lines.iter().all(|line| got.contains(line)), "{text}\n{second}");
}
