"""What labelled examples teach before anything is segmented: settings, weights, style, and what to expect."""
