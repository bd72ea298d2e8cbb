//! Lines of FTP and IRC in the payload of one segment.

/// How much of a payload is looked at, in bytes.
pub const PAYLOAD_LEN_MAX: usize = 4_000;
/// How many of its lines.
const LINES_MAX: usize = 60;

/// The lines of a payload, without the line ends.
pub fn lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let payload = &payload[..payload.len().min(PAYLOAD_LEN_MAX)];
    let mut rest = Some(payload);
    let next = move || {
        let text = rest?;
        match memchr::memchr(b'\n', text) {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                Some(text[..at].strip_suffix(b"\r").unwrap_or(&text[..at]))
            }
            None => rest.take(),
        }
    };
    std::iter::from_fn(next).take(LINES_MAX)
}

/// Whether a payload has a line that may matter: an SSH banner, a command or a reply.
pub fn of_interest(payload: &[u8]) -> bool {
    payload.starts_with(b"SSH-") || lines(payload).any(|line| Line::of(line) != Line::Other)
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `USER` of FTP or IRC.
    User,
    /// `NICK` of IRC.
    Nick,
    /// Another command an IRC client begins with.
    Irc,
    /// `RETR` of FTP, with the kind of the file by its extension: 1 HTML, 2 ZIP, 3 EXE, 0 any other.
    Retrieve(u64),
    /// A reply of FTP from 200 to 599.
    Reply(u16),
    /// A line that begins with 220 but is not the whole of a reply.
    Greeting,
    /// None of these.
    Other,
}

impl Line {
    /// What a line is.
    pub fn of(line: &[u8]) -> Line {
        let Some(first) = line.first() else { return Line::Other };
        match first.to_ascii_uppercase() {
            b'2'..=b'5' => reply(line),
            b'U' if begins(line, b"USER ") => Line::User,
            b'N' if begins(line, b"NICK ") => Line::Nick,
            b'R' if begins(line, b"RETR ") => Line::Retrieve(kind(&line[5..])),
            b'J' if begins(line, b"JOIN ") => Line::Irc,
            b'P' if begins(line, b"PRIVMSG ") || begins(line, b"PASS ") => Line::Irc,
            b'C' if begins(line, b"CAP ") => Line::Irc,
            _ => Line::Other,
        }
    }

    /// Whether it is a command an IRC client begins with.
    pub fn is_irc(self) -> bool {
        matches!(self, Line::User | Line::Nick | Line::Irc)
    }
}

fn begins(line: &[u8], command: &[u8]) -> bool {
    line.get(..command.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(command))
}

fn reply(line: &[u8]) -> Line {
    let Some(digits) = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit)) else {
        return Line::Other;
    };
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match line.get(3) {
        Some(b' ') => Line::Reply(code),
        _ if code == 220 => Line::Greeting,
        _ => Line::Other,
    }
}

/// The kind of a file by the extension of its name.
fn kind(name: &[u8]) -> u64 {
    let name = name.trim_ascii();
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let stem = name.iter().position(|byte| *byte != b'.').unwrap_or(name.len());
    let Some(dot) = memchr::memrchr(b'.', &name[stem..]) else { return 0 };
    let extension = name[stem + dot + 1..].to_ascii_lowercase();
    match extension.as_slice() {
        b"html" | b"htm" => 1,
        b"zip" => 2,
        b"exe" => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_cut_into_lines_with_either_end() {
        let all: Vec<&[u8]> = lines(b"a\r\nb\n\nc").collect();
        assert_eq!(all, [b"a".as_slice(), b"b", b"", b"c"]);
        let many = b"x\n".repeat(5_000);
        assert_eq!(lines(&many).count(), LINES_MAX);
        let long = [b"x".repeat(PAYLOAD_LEN_MAX), b"\nUSER a".to_vec()].concat();
        assert!(!of_interest(&long) && of_interest(&long[1..]) == of_interest(b"x"));
    }

    #[test]
    fn commands_and_replies_are_known_by_how_they_begin() {
        for (line, want) in [
            ("user a", Line::User),
            ("NICK me", Line::Nick),
            ("USERS", Line::Other),
            ("privmsg #x :hi", Line::Irc),
            ("CAP LS 302", Line::Irc),
            ("226 done", Line::Reply(226)),
            ("220-welcome", Line::Greeting),
            ("2200", Line::Greeting),
            ("226-more", Line::Other),
            ("22", Line::Other),
            ("650 x", Line::Other),
            ("", Line::Other),
        ] {
            assert_eq!(Line::of(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn files_are_known_by_their_extension() {
        for (name, want) in [
            ("a.html", 1),
            ("dir.exe/A.HTM \t", 1),
            ("tool.v2.zip", 2),
            ("x.exe", 3),
            (".exe", 0),
            ("dir.zip/file", 0),
            ("exe", 0),
            ("a.exe.txt", 0),
            ("", 0),
        ] {
            assert_eq!(Line::of(format!("retr {name}").as_bytes()), Line::Retrieve(want), "{name}");
        }
    }
}
