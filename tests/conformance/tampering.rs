//! Does the runner notice? Each of these is a mistake that a gateway could make, made in the answers of a good one: the cases
//! named must fail by it, and so must the whole.

use super::client::Answer;
use super::{Exchange, failures};

type Mistake = (&'static str, fn(&mut Answer) -> bool);

/// Each changes an answer that it applies to, and says so.
const MISTAKES: [Mistake; 14] = [
    ("an ETag of something else", |answer| {
        edit(answer, "etag", |etag| {
            etag.contains("bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am").then(|| "\"x\"".into())
        })
    }),
    ("an immutable listing", |answer| {
        edit(answer, "cache-control", |value| {
            value.contains("604800").then(|| "public, max-age=29030400, immutable".into())
        })
    }),
    ("an immutable error", |answer| {
        if answer.status < 400 || answer.header("etag").is_some() {
            return false;
        }
        answer.headers.push(("cache-control".into(), "public, max-age=29030400, immutable".into()));
        true
    }),
    ("a CAR without its last block", |answer| {
        is(answer, "content-type", "vnd.ipld.car") && last_section(&answer.body).is_some_and(|at| cut(answer, at))
    }),
    ("a CAR with a block twice", |answer| {
        let Some(at) = last_section(&answer.body).filter(|_| is(answer, "content-type", "dups=n")) else {
            return false;
        };
        let again = answer.body[at..].to_vec();
        answer.body.extend(again);
        true
    }),
    ("a CAR with a byte that is wrong", |answer| {
        let has = is(answer, "content-type", "vnd.ipld.car") && last_section(&answer.body).is_some();
        has && answer.body.last_mut().is_some_and(flip)
    }),
    ("a range that is off by one", |answer| {
        answer.status == 206 && !answer.body.is_empty() && {
            answer.body.rotate_left(1);
            true
        }
    }),
    ("a Content-Range that is off by one", |answer| {
        edit(answer, "content-range", |range| {
            range.split_once('/').map(|(range, size)| format!("{range}/{}", size.len() + 99))
        })
    }),
    ("a name whose bad record was taken", |answer| {
        answer.status == 502 && {
            answer.status = 200;
            true
        }
    }),
    ("a record that is signed by somebody else", |answer| {
        is(answer, "content-type", "ipns-record") && answer.body.last_mut().is_some_and(flip)
    }),
    ("a root too few", |answer| {
        edit(answer, "x-ipfs-roots", |roots| roots.rsplit_once(',').map(|(roots, _)| roots.to_owned()))
    }),
    ("a redirect that loses its slash", |answer| {
        edit(answer, "location", |to| to.strip_suffix('/').map(str::to_owned))
    }),
    ("a DAG-JSON block as plain text", |answer| {
        edit(answer, "content-type", |kind| kind.contains("dag-json").then(|| "text/plain".into()))
    }),
    ("a compressed answer", |answer| {
        answer.headers.push(("content-encoding".into(), "gzip".into()));
        true
    }),
];

pub fn each_is_noticed(exchanges: &[Exchange]) {
    for (what, mistake) in MISTAKES {
        let (mut made, mut noticed) = (0, 0);
        for exchange in exchanges {
            let Ok(answers) = &exchange.answers else { continue };
            let mut answers = answers.clone();
            // In all answers, as a gateway would make it; `|` so that none is left out.
            if answers.iter_mut().fold(false, |any, answer| mistake(answer) | any) {
                made += 1;
                noticed += usize::from(!failures(&exchange.case, &answers).is_empty());
            }
        }
        println!("{what}: in {made} cases, noticed in {noticed}");
        assert!(noticed > 0, "{what} is in {made} cases and none of them fails");
    }
}

fn is(answer: &Answer, header: &str, part: &str) -> bool {
    answer.header(header).is_some_and(|value| value.contains(part))
}

fn edit(answer: &mut Answer, header: &str, change: impl Fn(&str) -> Option<String>) -> bool {
    let Some((_, value)) = answer.headers.iter_mut().find(|(name, _)| name == header) else { return false };
    let Some(changed) = change(value) else { return false };
    *value = changed;
    true
}

fn cut(answer: &mut Answer, at: usize) -> bool {
    answer.body.truncate(at);
    true
}

fn flip(byte: &mut u8) -> bool {
    *byte ^= 1;
    true
}

/// Where the last block of a CAR starts; `None` when there is only a header.
fn last_section(car: &[u8]) -> Option<usize> {
    let (mut at, mut last) = (0, None);
    while at < car.len() {
        let (length, rest) = unsigned_varint::decode::usize(&car[at..]).ok()?;
        last = (at > 0).then_some(at);
        at = car.len() - rest.len() + length;
    }
    last
}
