//! Events of an auction house, as the benchmark Nexmark has them: persons, auctions and bids.
//!
//! Of each fifty events one is a person, three are auctions and the others bids, as in the generator of Apache Beam and of
//! <https://github.com/nexmark/nexmark>, whose proportions, ranges and hot keys these are; the values are not theirs. The same seed
//! gives the same events.
//!
//! **Never**: reads a clock, or is part of the program: it feeds tests and benchmarks.

mod values;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// Events of which one is a person and three are auctions.
const ROUND: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;

/// The first ids.
const FIRST_PERSON: u64 = 1_000;
const FIRST_AUCTION: u64 = 1_000;
const FIRST_CATEGORY: u64 = 10;

/// Auctions that bids are put on at a time, but for the hot ones.
const OPEN_AUCTIONS: u64 = 100;

/// Persons who bid and sell at a time.
const ACTIVE_PERSONS: u64 = 1_000;

/// A person.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the benchmark's own columns")]
pub struct Person {
    pub id: u64,
    pub name: String,
    pub email_address: String,
    pub credit_card: String,
    pub city: &'static str,
    pub state: &'static str,
    pub date_time: i64,
    pub extra: String,
}

/// An auction.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the benchmark's own columns")]
pub struct Auction {
    pub id: u64,
    pub item_name: String,
    pub description: String,
    pub initial_bid: u64,
    pub reserve: u64,
    pub date_time: i64,
    pub expires: i64,
    pub seller: u64,
    pub category: u64,
    pub extra: String,
}

/// A bid.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the benchmark's own columns")]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    pub channel: String,
    pub url: String,
    pub date_time: i64,
    pub extra: String,
}

/// An event. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody registers.
    Person(Person),
    /// Something is offered.
    Auction(Auction),
    /// Something is bid for it.
    Bid(Bid),
}

/// Makes events, one after the other.
///
/// # Examples
/// ```
/// use catchment_nexmark::{Event, Generator};
///
/// let events: Vec<Event> = Generator::new(7, 0, 10_000).take(100).collect();
/// let bids = events.iter().filter(|event| matches!(event, Event::Bid(_)));
/// assert_eq!(bids.count(), 92);
/// ```
#[derive(Debug)]
pub struct Generator {
    chance: StdRng,
    number: u64,
    begins: i64,
    apart: i64,
}

impl Generator {
    /// Begins with a seed, at a time, with so many microseconds from one event to the next.
    #[must_use]
    pub fn new(seed: u64, begins: i64, apart: i64) -> Self {
        Self { chance: StdRng::seed_from_u64(seed), number: 0, begins, apart }
    }

    fn person(&mut self, date_time: i64) -> Person {
        let name = values::name(&mut self.chance);
        let (city, state) = values::place(&mut self.chance);
        Person {
            id: FIRST_PERSON + self.number / ROUND,
            email_address: format!(
                "{}@{}.com",
                name.to_lowercase().replace(' ', "."),
                values::text(&mut self.chance, 7)
            ),
            credit_card: values::card(&mut self.chance),
            name,
            city,
            state,
            date_time,
            extra: values::text(&mut self.chance, 40),
        }
    }

    fn auction(&mut self, date_time: i64) -> Auction {
        let (round, offset) = (self.number / ROUND, self.number % ROUND);
        let initial_bid = values::price(&mut self.chance);
        // As long as it takes until some hundred others are there, more or less.
        let horizon = self.apart.saturating_mul((OPEN_AUCTIONS * ROUND / AUCTIONS) as i64).max(1);
        Auction {
            id: FIRST_AUCTION + round * AUCTIONS + offset - PERSONS,
            item_name: values::text(&mut self.chance, 20),
            description: values::text(&mut self.chance, 60),
            initial_bid,
            reserve: initial_bid + values::price(&mut self.chance),
            date_time,
            expires: date_time + 1_000 + self.chance.random_range(0..horizon * 2),
            seller: self.known_person(round, 4),
            category: FIRST_CATEGORY + self.chance.random_range(0..5),
            extra: values::text(&mut self.chance, 30),
        }
    }

    fn bid(&mut self, date_time: i64) -> Bid {
        let round = self.number / ROUND;
        let newest = FIRST_AUCTION + (round + 1) * AUCTIONS - 1;
        let auction = match self.chance.random_range(0..2) {
            // Every second bid is on the newest auction whose number divides by a hundred.
            0 => (newest / 100 * 100).max(FIRST_AUCTION),
            _ => self.chance.random_range(newest.saturating_sub(OPEN_AUCTIONS).max(FIRST_AUCTION)..=newest),
        };
        let (channel, url) = values::channel(&mut self.chance);
        Bid {
            auction,
            bidder: self.known_person(round, 4),
            price: values::price(&mut self.chance),
            channel,
            url,
            date_time,
            extra: values::text(&mut self.chance, 30),
        }
    }

    /// Somebody who is there: one of `hot` is not the one whom all know.
    fn known_person(&mut self, round: u64, hot: u32) -> u64 {
        let newest = FIRST_PERSON + round;
        match self.chance.random_range(0..hot) {
            0 => self.chance.random_range(newest.saturating_sub(ACTIVE_PERSONS).max(FIRST_PERSON)..=newest),
            _ => (newest / 100 * 100).max(FIRST_PERSON),
        }
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let time = self.begins.saturating_add((self.number as i64).saturating_mul(self.apart));
        let event = match self.number % ROUND {
            offset if offset < PERSONS => Event::Person(self.person(time)),
            offset if offset < PERSONS + AUCTIONS => Event::Auction(self.auction(time)),
            _ => Event::Bid(self.bid(time)),
        };
        self.number += 1;
        Some(event)
    }
}
