"""Files -> a draft of their conf/dataset/NAME.yaml: sniffing, survey, label, verdicts, draft."""
