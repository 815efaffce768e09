//! The best tier and its peers as a picture: GB/s by length, sealing above and opening below.

use std::fmt::Write as _;

use super::Row;

const COLOURS: [&str; 6] = ["#1b6ca8", "#c0392b", "#8e8e8e", "#d68910", "#2e8b57", "#6c3483"];
const SIZES: [&str; 5] = ["64", "256", "512", "1420", "8192"];
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 260.0;

/// The picture, as SVG.
pub(super) fn draw(rows: &[Row]) -> String {
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{}' font-family='sans-serif' font-size='12'>",
        2.0 * HEIGHT + 30.0
    );
    for (panel, what) in ["seal", "open"].into_iter().enumerate() {
        draw_panel(&mut out, rows, what, HEIGHT * panel as f64);
    }
    out.push_str("</svg>");
    out
}

/// GB/s of everybody by size: ours first.
fn series(rows: &[Row], what: &str) -> Vec<(&'static str, Vec<f64>)> {
    let mut all: Vec<(&'static str, Vec<f64>)> = vec![("ours", Vec::new())];
    for size in SIZES {
        let bytes: f64 = size.parse().expect("a number");
        let of = rows.iter().filter(|row| row.what == what && row.size == size);
        for (index, row) in of.enumerate() {
            if index == 0 {
                all[0].1.push(bytes / row.ours);
            }
            match all.iter_mut().find(|(name, _)| *name == row.peer) {
                Some((_, values)) => values.push(bytes / row.theirs),
                None => all.push((row.peer, vec![bytes / row.theirs])),
            }
        }
    }
    all
}

fn draw_panel(out: &mut String, rows: &[Row], what: &str, top: f64) {
    let all = series(rows, what);
    let most =
        all.iter().flat_map(|(_, values)| values).fold(1.0_f64, |most, value| most.max(*value));
    let (bottom, high) = (top + HEIGHT - 30.0, HEIGHT - 60.0);
    let slot = (WIDTH - 60.0) / SIZES.len() as f64;
    let bar = slot * 0.8 / all.len().max(1) as f64;
    write!(
        out,
        "<text x='10' y='{}'>{what}, GB/s of one core, by bytes of text</text>",
        top + 20.0
    )
    .expect("a string takes all");
    for (index, (name, values)) in all.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let x = 380.0 + 100.0 * index as f64;
        write!(out, "<text x='{x}' y='{}' fill='{colour}'>{name}</text>", top + 20.0)
            .expect("a string takes all");
        for (at, value) in values.iter().enumerate() {
            let (x, height) = (40.0 + slot * at as f64 + bar * index as f64, high * value / most);
            let y = bottom - height;
            write!(
                out,
                "<rect x='{x:.1}' y='{y:.1}' width='{:.1}' height='{height:.1}' fill='{colour}'/>\
                 <text x='{x:.1}' y='{:.1}' font-size='9'>{value:.2}</text>",
                bar - 1.0,
                y - 2.0
            )
            .expect("a string takes all");
        }
    }
    for (at, size) in SIZES.iter().enumerate() {
        let x = 40.0 + slot * (at as f64 + 0.35);
        write!(out, "<text x='{x:.1}' y='{:.1}'>{size}</text>", bottom + 16.0)
            .expect("a string takes all");
    }
}
