mod read {
    mod queries;
    mod support;
    mod teeth;
}
