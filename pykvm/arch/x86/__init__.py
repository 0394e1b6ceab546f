"""x86: start states, descriptor and page tables, memory layout."""
