package score

func (x *scratch) wrongLanguage(*choice) bool { return false }
