//! Where a flow goes on: a pure decision from what is durable.

use catchment_core::Position;

/// What a flow does first when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// A staged batch was not published everywhere: publish it. It is never computed again.
    Publish(Position),
    /// A planned batch was not staged: compute it from exactly its plan.
    Stage(Position),
    /// All is published: plan this batch next.
    Plan(Position),
}

/// Decides from the position in the table, the newest plan and the newest staged record.
///
/// The table's position is the truth; plans and staged records at or before it are done.
#[must_use]
pub fn resume(published: Option<Position>, planned: Option<Position>, staged: Option<Position>) -> Resume {
    let open = |position: Position| published.is_none_or(|published| position > published);
    match (planned.filter(|at| open(*at)), staged.filter(|at| open(*at))) {
        (Some(plan), Some(staged)) if plan == staged => Resume::Publish(plan),
        (Some(plan), _) => Resume::Stage(plan),
        (None, _) => Resume::Plan(published.map_or(Position::new(0, 0), Position::next)),
    }
}

#[cfg(test)]
mod tests {
    use catchment_core::Position;

    use super::{Resume, resume};

    const fn at(number: u64) -> Position {
        Position { epoch: 0, number }
    }

    #[test]
    fn a_new_flow_plans_its_first_batch() {
        assert_eq!(resume(None, None, None), Resume::Plan(at(0)));
    }

    #[test]
    fn each_crash_goes_on_where_it_was() {
        assert_eq!(resume(None, Some(at(0)), None), Resume::Stage(at(0)));
        assert_eq!(resume(None, Some(at(0)), Some(at(0))), Resume::Publish(at(0)));
        assert_eq!(resume(Some(at(0)), Some(at(0)), Some(at(0))), Resume::Plan(at(1)));
        assert_eq!(resume(Some(at(0)), Some(at(1)), Some(at(0))), Resume::Stage(at(1)));
        assert_eq!(resume(Some(at(3)), Some(at(4)), Some(at(4))), Resume::Publish(at(4)));
    }

    #[test]
    fn a_new_epoch_comes_after_every_batch_of_the_old_one() {
        let reset = Position::new(1, 0);
        assert_eq!(resume(Some(at(7)), Some(reset), None), Resume::Stage(reset));
        assert_eq!(resume(Some(reset), Some(at(9)), Some(at(9))), Resume::Plan(reset.next()));
    }
}
