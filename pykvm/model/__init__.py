"""Plain data that every layer speaks: accesses, exits, CPU registers, declarations of device registers."""
