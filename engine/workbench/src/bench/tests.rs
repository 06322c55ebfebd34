use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn table(line: &str) -> Result<String, BenchError> {
    let arguments = Line::parse_from(format!("bench {line}").split(' ')).bench;
    let mut out = Vec::new();
    bench_for(&arguments, Duration::ZERO, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn the_table_has_a_row_for_each_and_rr_first() {
    let table = table("lc rr wrr --servers 1,3").unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].contains("median of 11 rounds of 2000 calls"), "{table}");
    assert_eq!(lines[2], "| scheduler | 1 servers | 3 servers |");
    assert_eq!(lines[3], "|---|---|---|");
    let first: Vec<_> = lines[4..].iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(first, ["rr", "lc", "wrr"]);
    assert!(lines[4].ends_with("(1.0) |"), "{table}");
    assert!(lines.iter().skip(4).all(|line| line.matches('|').count() == 4), "{table}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let error = table("rr /nonexistent/my.wasm").unwrap_err().to_string();
    assert!(error.contains("cannot read /nonexistent/my.wasm") && error.contains("rr"), "{error}");
    for (line, words) in [("rr --servers 0", "0 is not in 1..=1024"), ("rr --servers 1025", "1025")]
    {
        let error = Line::try_parse_from(format!("bench {line}").split(' ')).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(Line::try_parse_from(["bench"]).is_err());
}
