//! Sessions of event tracing on a simulated machine, which is that of an interface.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::driver::Driver;
use crate::driver::simulated::Simulated;
use crate::etl::session::{Ended, NONE, Session, Why, runs};
use crate::words::said;

/// What a refusal's number means here.
const EXISTS: i32 = 17;
/// See [`EXISTS`].
const NO_ENTRY: i32 = 2;

/// Starts a session on the machine of `interface`, or of the one there is.
///
/// # Errors
///
/// The reason, and what to do.
pub fn start(session: &Session, interface: Option<&str>) -> Result<(), Why> {
    let Session { name, file, level, keywords, .. } = session;
    let file = file.to_str().filter(|file| !file.contains('\n'));
    let file = file.ok_or("the simulator takes a path that is UTF-8, in one line")?;
    let lines = format!("name={name}\nfile={file}\nlevel={level}\nkeywords={keywords}");
    match ask("start", &lines, interface)? {
        Ok(_) => Ok(()),
        Err(EXISTS) => Err(runs(name)),
        Err(number) => Err(format!("{file}: {}", said(&io::Error::from_raw_os_error(number)))),
    }
}

/// Stops it.
///
/// # Errors
///
/// As above.
pub fn stop(name: &str, interface: Option<&str>) -> Result<Ended, Why> {
    let answer = match ask("stop", &format!("name={name}"), interface)? {
        Ok(answer) => answer,
        Err(NO_ENTRY) => return Err(NONE.to_owned()),
        Err(number) => {
            return Err(format!("its file: {}", said(&io::Error::from_raw_os_error(number))));
        }
    };
    let value = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key));
    let lost = value("lost=").and_then(|lost| lost.parse().ok());
    let file = value("file=").map(str::to_owned);
    lost.zip(file)
        .map(|(lost, file)| Ended { file, lost })
        .ok_or_else(|| "the simulator does not say".to_owned())
}

/// Makes a request; its answer, or the number it was refused with.
fn ask(what: &str, lines: &str, interface: Option<&str>) -> Result<Result<String, i32>, Why> {
    let simulated = Simulated::default();
    let names = simulated.names().map_err(|error| said(&error))?;
    let name = match (interface, &*names) {
        (Some(name), _) => name,
        (None, [name]) => name,
        (None, []) => return Err("there is no simulated machine".to_owned()),
        (None, all) => {
            return Err(format!("say whose machine is meant (--interface): {}", all.join(", ")));
        }
    };
    let answer = simulated
        .connect(name)
        .and_then(|socket| talk(socket, &format!("trace={what}\n{lines}\n\n")));
    let answer = answer.map_err(|error| format!("{name}: {}", said(&error)))?;
    let number = answer.lines().find_map(|line| line.strip_prefix("errno=")?.parse::<i32>().ok());
    Ok(match number {
        Some(0) => Ok(answer),
        Some(number) => Err(number.wrapping_neg()),
        None => return Err(format!("{name}: the simulator does not answer")),
    })
}

fn talk(mut socket: UnixStream, request: &str) -> io::Result<String> {
    socket.write_all(request.as_bytes())?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
