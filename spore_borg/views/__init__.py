"""Views: pure, integer-only folds over the set of records. Same set, same bytes, in any order of arrival."""
