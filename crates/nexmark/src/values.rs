//! Names, places, prices and texts.

use rand::Rng;
use rand::rngs::StdRng;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];

const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

const PLACES: [(&str, &str); 10] = [
    ("Phoenix", "AZ"),
    ("Los Angeles", "CA"),
    ("San Francisco", "CA"),
    ("Boise", "ID"),
    ("Portland", "OR"),
    ("Bend", "OR"),
    ("Redmond", "WA"),
    ("Seattle", "WA"),
    ("Kent", "WA"),
    ("Cheyenne", "WY"),
];

const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

pub(crate) fn name(chance: &mut StdRng) -> String {
    let (first, last) = (chance.random_range(0..FIRST_NAMES.len()), chance.random_range(0..LAST_NAMES.len()));
    format!("{} {}", FIRST_NAMES[first], LAST_NAMES[last])
}

pub(crate) fn place(chance: &mut StdRng) -> (&'static str, &'static str) {
    PLACES[chance.random_range(0..PLACES.len())]
}

pub(crate) fn card(chance: &mut StdRng) -> String {
    let part = |chance: &mut StdRng| format!("{:04}", chance.random_range(0..10_000));
    [part(chance), part(chance), part(chance), part(chance)].join(" ")
}

/// In cents, from a hundred to a hundred million: as many of each size.
pub(crate) fn price(chance: &mut StdRng) -> u64 {
    (10_f64.powf(chance.random::<f64>() * 6.0) * 100.0).round() as u64
}

/// Lower-case letters, about so many.
pub(crate) fn text(chance: &mut StdRng, length: usize) -> String {
    let count = chance.random_range(length / 2..=length + length / 2);
    (0..count).map(|_| char::from(chance.random_range(b'a'..=b'z'))).collect()
}

/// Where a bid came from: half of them from one of four, the others from one of ten thousand.
pub(crate) fn channel(chance: &mut StdRng) -> (String, String) {
    if chance.random_bool(0.5) {
        let channel = CHANNELS[chance.random_range(0..CHANNELS.len())];
        return (channel.to_owned(), format!("{}/item.htm?query=1", url(chance)));
    }
    let number: u32 = chance.random_range(0..10_000);
    let id = if chance.random_bool(0.9) { format!("&channel_id={number}") } else { String::new() };
    (format!("channel-{number}"), format!("{}/item.htm?query=1{id}", url(chance)))
}

fn url(chance: &mut StdRng) -> String {
    let part = |chance: &mut StdRng| text(chance, 5);
    format!("https://www.nexmark.com/{}/{}/{}", part(chance), part(chance), part(chance))
}
